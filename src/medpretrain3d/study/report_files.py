"""Files of a report beside its page: each of a name of its own, and none of an earlier report among them.

FOLDER/.<report>.sha256   the files that a report wrote, in the form of `sha256sum`: those that a later one takes away
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from medpretrain3d.atomic import write_text
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.documents.text import read_bytes, read_text
from medpretrain3d.errors import UserError
from medpretrain3d.names import MAX_BYTES

LINE = re.compile(r"([0-9a-f]{64})  ([^/\\]+)")
ADVICE = "take it away"


def file_stems(titles: Iterable[str]) -> list[str]:
    """Return a name for the file of each title: letters and digits of any script in lower case, alike ones numbered."""
    found: list[str] = []
    for title in titles:
        plain = unicodedata.normalize("NFC", title.lower())
        kept = (sign if unicodedata.category(sign)[0] in "LMN" else "_" for sign in plain)
        stem = re.sub("_+", "_", "".join(kept)).strip("_").encode()[:MAX_BYTES].decode(errors="ignore")
        number, one = 1, stem
        while one in found:
            number += 1
            one = f"{stem}_{number}"
        found.append(one)
    return found


def write_files(folder: Path, files: Mapping[str, str], report: str = "report") -> list[Path]:
    """Write the files of a report, and take away those that it wrote earlier and does not have any more.

    One that was changed since is its user's, and stays, as does whatever else is there.

    Args:
        folder: made where it is missing.
        files: texts by the names of their files.
        report: name of the report, which several in one folder are told apart by.

    Returns:
        The files that it has now.

    Raises:
        UserError: the disk refuses.
    """
    folder = Path(folder)
    listing = folder / f".{report}.sha256"
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    for name, text in files.items():
        write_text(folder / name, text)
    for name, digest in _listed(listing).items():
        if name not in files and _hash(folder / name) == digest:
            with disk_errors(folder / name):
                (folder / name).unlink()
    write_text(listing, "".join(f"{digest}  {name}\n" for name, digest in hashes.items()))
    return [folder / name for name in files]


def _listed(listing: Path) -> dict[str, str]:
    """Return the hash of each file that the last report wrote; nothing where no list of it can be read."""
    with suppress(UserError):
        found = map(LINE.fullmatch, read_text(listing, ADVICE).splitlines())
        return {line[2]: line[1] for line in found if line is not None}
    return {}


def _hash(path: Path) -> str:
    with suppress(UserError):
        return hashlib.sha256(read_bytes(path, ADVICE)).hexdigest()
    return ""
