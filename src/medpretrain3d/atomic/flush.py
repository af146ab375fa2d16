"""Flushing to the disk: a rename orders names and not contents, so a power loss would leave files of 0 bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def flush(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to disk.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Pipes and devices have nothing to flush, and some file systems (9p, FUSE) flush no folder.
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to disk, itself last.

    Raises:
        OSError: the disk refuses.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, topdown=False, onerror=refuse):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                flush(path)
        flush(Path(parent))
