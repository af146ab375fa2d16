"""Files and folders that are made beside their place, flushed to the disk, and renamed into it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.atomic.exchange import put
from medpretrain3d.atomic.flush import flush, flush_tree
from medpretrain3d.atomic.leftovers import OUTGOING, put_back, remove, unfinished_path
from medpretrain3d.errors import UserError

_OWN_OUTPUT = {
    place: number
    for number, name in ((1, "stdout"), (2, "stderr"))
    for place in (f"/dev/{name}", f"/dev/fd/{number}", f"/proc/self/fd/{number}")
}
"""Names of the outputs of a process, by which a file that they are redirected to cannot be replaced."""


@contextmanager
def finished_folder(folder: Path, replace: bool | Collection[str] = False) -> Iterator[Path]:
    """Hand out a temporary folder beside `folder`, and rename it there once the block ends well and the disk holds it.

    A link stays and what it leads to is replaced. At any moment either the old or the new folder is there; on file
    systems that cannot exchange two names, `put_back` brings the old one back if the process is killed in between.

    Args:
        folder: the final place.
        replace: whether an existing folder gives way, or the names of files by which a folder of the same kind is
            known: one that holds none of them, and is not empty, stays.

    Raises:
        UserError: something else is in the place, or the disk refuses (full, quota, read-only, name too long, ...).
    """
    folder = Path(folder)
    with disk_errors(folder):
        put_back(folder)
        place = Path(os.path.realpath(folder))
        _check_replaceable(folder, replace)
        unfinished = unfinished_path(place)
        try:
            _make_folders(place.parent)
            unfinished.mkdir()
            yield unfinished
            flush_tree(unfinished)
            _check_replaceable(folder, replace)  # it may have come into being meanwhile
            put(unfinished, place)
            flush(place.parent)
        finally:
            for left in (unfinished, unfinished.with_suffix(OUTGOING)):
                # The old folder that was exchanged, what is not complete, or nothing; put back before it is removed.
                with suppress(OSError):
                    put_back(place)
                    remove(left)


@contextmanager
def finished_file(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`, and rename it there once the block ends well and the disk holds it.

    A link stays and the file it leads to is replaced. A device or pipe is written directly. /dev/stdout of a program
    whose output goes to a file is written behind what it printed.

    Raises:
        UserError: a folder is in the place, or the disk refuses (full, quota, read-only, name too long, ...).
    """
    path = Path(path)
    with disk_errors(path):
        if _is_stream(path):
            yield path
            return
        if descriptor := _OWN_OUTPUT.get(os.fspath(path)):
            with TemporaryDirectory() as folder:
                yield (written := Path(folder) / "output")
                _hand_on(written, descriptor)
            return
        place = Path(os.path.realpath(path))
        unfinished = unfinished_path(place)
        try:
            _make_folders(place.parent)
            yield unfinished
            flush(unfinished)
            os.replace(unfinished, place)
            flush(place.parent)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        UserError: see `finished_file`.
    """
    with finished_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _check_replaceable(folder: Path, replace: bool | Collection[str]) -> None:
    if not os.path.exists(folder):
        return
    if not replace:
        raise UserError(f"{folder}: exists already; remove it or choose another place")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, wanted a folder; choose another place")
    if not isinstance(replace, bool) and (there := set(os.listdir(folder))) and not there & set(replace):
        raise UserError(
            f"{folder}: holds other files and no {' or '.join(sorted(replace))}; choose another place or remove it"
        )


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, with their names on the disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        flush(one.parent)


def _hand_on(written: Path, descriptor: int) -> None:
    """Write a file to an output of this process, behind what was printed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with written.open("rb") as source, os.fdopen(os.dup(descriptor), "wb") as output:
        shutil.copyfileobj(source, output)


def _is_stream(path: Path) -> bool:
    """Return whether a device or a pipe is in the place of a file.

    Raises:
        OSError: a folder is there, or what is there cannot be known.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return not stat.S_ISREG(mode)
