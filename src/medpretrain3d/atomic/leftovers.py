"""The names of what is not finished yet, by which a later call knows what a killed one left behind."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

UNFINISHED, OUTGOING = ".unfinished", ".outgoing"
_LONGEST = 100
"""Bytes of a name that is kept as it is: with what is added it stays below 143, the least that file systems allow."""
_PATTERN = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(unfinished|outgoing)", re.DOTALL)


def unfinished_path(place: Path) -> Path:
    """Return a new name beside `place`, hidden, under which it is made."""
    return place.with_name(f".{short_name(place.name)}.{uuid.uuid4().hex[:8]}{UNFINISHED}")


def remove_unfinished(folder: Path, names: Collection[str] | None = None, older_than_s: float = 0) -> None:
    """Remove what killed processes left behind in a folder; an old folder that waits to be put back is put back.

    Args:
        folder: may be missing.
        names: only what was to become one of these, because other processes may be at work on others; None is all.
        older_than_s: seconds since it was last changed.

    Raises:
        OSError: the disk refuses.
    """
    wanted = None if names is None else {short_name(name) for name in names}
    for path, stem in _leftovers(Path(folder)):
        if wanted is not None and stem not in wanted:
            continue
        with suppress(FileNotFoundError):  # another process may do the same
            if older_than_s and time.time() - path.lstat().st_mtime < older_than_s:
                continue
            put_back(path.with_name(stem))
            remove(path)
    for name in names or ():
        put_back(Path(folder) / name)


def put_back(place: Path) -> None:
    """Give a folder its name again if a killed process was about to replace it and had put it aside.

    Only file systems that cannot exchange two names know this moment. Where nothing can be renamed, nothing happens.
    """
    place = Path(os.path.realpath(place))
    if os.path.lexists(place):
        return
    with suppress(OSError):
        own = [path for path, stem in _leftovers(place.parent) if stem == short_name(place.name)]
        if aside := [path for path in own if path.suffix == OUTGOING]:
            os.rename(max(aside, key=lambda path: path.lstat().st_mtime), place)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it.

    Raises:
        OSError: the disk refuses.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _leftovers(folder: Path) -> list[tuple[Path, str]]:
    """List the unfinished files and folders in a folder, each with the stem of its final name."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = ((folder / name, _PATTERN.fullmatch(name)) for name in names)
    return [(path, match[1]) for path, match in found if match]


def short_name(name: str) -> str:
    """Return the name, or what stands for one that is too long to be added to."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    return encoded[: _LONGEST // 2].decode("utf-8", "ignore") + "~" + hashlib.sha256(encoded).hexdigest()[:16]
