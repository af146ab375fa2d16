"""Files and folders that are there complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
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
