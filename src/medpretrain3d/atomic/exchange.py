"""Putting a folder in the place of another, with no moment in which neither is there."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from medpretrain3d.atomic.leftovers import OUTGOING

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
# Kernels, C libraries and file systems (NFS, 9p, several FUSE) that cannot exchange say one of these.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def put(new: Path, place: Path) -> None:
    """Rename the folder `new` to `place`; what was there is called `new`, or `.outgoing` beside it, afterwards.

    Where the file system cannot exchange two names in one step, the old folder waits as `.outgoing` for a moment. If
    the process is killed in it, `put_back` finds the old folder again.

    Raises:
        OSError: the disk refuses.
    """
    while True:
        if not os.path.lexists(place):
            try:
                os.rename(new, place)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # another process put something there meanwhile
        try:
            exchange(new, place)
            return
        except OSError as error:
            if error.errno == errno.ENOENT and not os.path.lexists(place):
                continue
            if error.errno not in _CANNOT:
                raise
        os.rename(place, new.with_suffix(OUTGOING))


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two files or folders in one step.

    Raises:
        OSError: the disk refuses, or the system cannot (ENOSYS, EINVAL, ENOTSUP).
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(one), None, os.fspath(other))
