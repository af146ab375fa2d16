"""Files and folders that are there complete or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from medpretrain3d.errors import UserError


@contextmanager
def finished_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Hand out a temporary folder beside `folder` and rename it there once the block ends well.

    Args:
        folder: the final place.
        replace: whether an existing folder gives way (after the new one is complete).

    Raises:
        UserError: `folder` exists and `replace` is False, or the disk is full.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise UserError(f"{folder}: exists already; remove it or choose another place")
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.unfinished")
    with _disk_errors(folder):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            if folder.exists():
                outgoing = unfinished.with_suffix(".outgoing")
                folder.rename(outgoing)
                unfinished.rename(folder)
                shutil.rmtree(outgoing)
            else:
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path, names: Container[str], older_than_s: float = 0) -> None:
    """Remove what killed processes left behind in a folder.

    Args:
        folder: may be missing.
        names: only what was to become one of these; other processes may be at work on others.
        older_than_s: seconds since it was last changed.
    """
    for path in folder.glob(".*") if folder.is_dir() else ():
        left = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.(unfinished|outgoing)", path.name)
        if left and left[1] in names and time.time() - path.stat().st_mtime >= older_than_s:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def finished_file(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path` and rename it there once the block ends well.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    with _disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with finished_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(_existing(path)).free
            raise UserError(
                f"{path}: the disk is full ({free:,} bytes free); nothing was written, free some space"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
        raise


def _existing(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if parent.exists())
