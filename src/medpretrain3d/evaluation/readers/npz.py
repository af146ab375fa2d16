"""Archives of arrays, read without a pickle in them and without more memory than they may need."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from medpretrain3d.documents import LARGE
from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import check_there


def read_npz(path: Path, advice: str, max_bytes: int = LARGE) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` by name.

    Args:
        path: the file.
        advice: what to do about a bad one, the end of every message.
        max_bytes: that its arrays may take together.

    Raises:
        UserError: the file is missing or damaged, holds pickled objects, or claims more than `max_bytes`.
    """
    check_there(path)
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        if claimed > max_bytes:
            raise UserError(f"{path}: its arrays take {claimed:,} bytes, wanted at most {max_bytes:,}; {advice}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: is no readable archive of arrays ({reason}); {advice}") from error
