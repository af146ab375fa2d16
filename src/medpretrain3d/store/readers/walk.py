"""Every file below a folder that somebody else filled: what is hidden, unreadable or a loop ends no walk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from medpretrain3d.store.case_files import CASES, SIDECAR
from medpretrain3d.store.index import INDEX
from medpretrain3d.store.layout import CONTAINERS

ARCHIVE_LEFTOVERS = "__MACOSX"
"""Folder of the hidden twins that macOS puts into archives."""


def walk(
    folder: Path, passed_over: Callable[[Path, str], None] = lambda path, reason: None, is_deep: bool = True
) -> Iterator[Path]:
    """Return regular files at any depth, and links that lead nowhere, which are for the reader of the file to name.

    Links to folders are followed, into each folder once. Hidden files and folders, `__MACOSX`, pipes, devices and
    stores that were prepared into the folder are left out.

    Args:
        folder: where to begin; nothing is found where it is missing.
        passed_over: is told of each folder that is not gone into, and why.
        is_deep: whether to go into folders at all.
    """
    seen: set[tuple[int, int]] = set()
    pending = [Path(folder)]
    while pending:
        place = pending.pop()
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                passed_over(place, "folders that a link leads to a second time")
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            if place != folder or not isinstance(error, FileNotFoundError | NotADirectoryError):
                passed_over(place, f"folders that cannot be read ({(error.strerror or 'error').lower()})")
            continue
        if place != folder and _is_store(place, {entry.name for entry in entries}):
            passed_over(place, "stores that `medpretrain3d prepare` wrote")
            continue
        inside = []
        for entry in entries:
            path = place / entry.name
            if entry.name[0] == "." or entry.name == ARCHIVE_LEFTOVERS:
                if entry.name[0] == "." and _kind(path) == "folder":
                    passed_over(path, "hidden folders")
                continue
            kind = _kind(path)
            if kind == "folder":
                inside.append(path)
            elif kind == "file":
                yield path
        if is_deep:
            pending += reversed(inside)


def _is_store(place: Path, names: set[str]) -> bool:
    """Return whether a folder holds the index of a store, or cases of one that is not finished."""
    if INDEX in names and (CASES in names or CONTAINERS in names):
        return True
    return CASES in names and any((place / CASES).glob(f"*/{SIDECAR}"))


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError:  # a link that leads nowhere, or in a circle
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"
