"""Whether the archive that `torch.save` writes is whole: PyTorch itself compares no checksum when it reads one."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medpretrain3d.errors import UserError


def check_archive(path: Path) -> None:
    """Compare every entry with its CRC-32.

    Raises:
        UserError: the archive is cut off, an entry differs from its checksum, or is compressed, which PyTorch never
            does and which can hide any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            odd = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if odd or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UserError(
                    f"{path}: holds compressed or overlapping entries, as no checkpoint does; save it again"
                )
            has_checksums = any(entry.CRC for entry in entries)  # none with `set_crc32_options(False)`
            damaged = archive.testzip() if has_checksums else None
    # RuntimeError, or a kind of it: an entry is encrypted, or of a version that zipfile does not know.
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its archive is damaged ({error}); download it again") from error
    if damaged is not None:
        raise UserError(f"{path}: {damaged!r} in it differs from its checksum, so it is damaged; download it again")
