"""File system errors, as one line for the user."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medpretrain3d.errors import MachineError, UserError

_ELSEWHERE = "choose another place"
_OF_THE_MACHINE: dict[int, tuple[str, str]] = {
    errno.EDQUOT: ("the disk quota is used up", "nothing was written, free some space or ask for more"),
    errno.EFBIG: ("the file is too large for this file system or for `ulimit -f`", "nothing was written, raise it"),
    errno.EIO: ("the disk reports an input/output error", "nothing was written, check the disk"),
    errno.ESTALE: ("the network file system lost the folder", "nothing was written, mount it again"),
    errno.ETIMEDOUT: ("the network file system does not answer", "nothing was written, mount it again"),
    errno.EMFILE: ("too many files are open in this process", "nothing was written, raise `ulimit -n`"),
    errno.ENFILE: ("too many files are open on this machine", "nothing was written, end other programs"),
    errno.ENOMEM: ("the system has no memory left for it", "nothing was written, end other programs"),
}
_OF_THE_PLACE: dict[int, tuple[str, str]] = {
    errno.ENAMETOOLONG: ("the name is too long for this file system", "choose a shorter one"),
    errno.ELOOP: ("is a link that leads to itself", "remove it"),
    errno.EISDIR: ("is a folder, wanted a file", _ELSEWHERE),
    errno.ENOENT: ("cannot be written, its folder takes no files or was removed", _ELSEWHERE),
    errno.EROFS: ("cannot be written, the file system is read-only", _ELSEWHERE),
    **{
        code: (f"cannot be written ({os.strerror(code)})", _ELSEWHERE)
        for code in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EBUSY, errno.ETXTBSY, errno.EINVAL)
    },
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses while `path` is written into an error that names it.

    An error about a file elsewhere, such as one that was read to make `path`, passes unchanged.

    Raises:
        MachineError: no space, quota, memory or descriptor left, a file too long, a broken disk.
        UserError: a place that takes no file: no permission, read-only, a folder, a name too long.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not _is_about(error, Path(path)):
            raise
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(_existing(Path(path))).free
            raise MachineError(
                f"{path}: the disk is full ({free:,} bytes free); nothing was written, free some space"
            ) from error
        for meaning, kind in ((_OF_THE_MACHINE, MachineError), (_OF_THE_PLACE, UserError)):
            if error.errno in meaning:
                what, advice = meaning[error.errno]
                raise kind(f"{path}: {what}; {advice}") from error
        raise


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error names the place, a folder above it, or what is written to be renamed there."""
    if isinstance(error.filename, int):
        return True
    named = Path(os.path.abspath(os.fsdecode(error.filename)))
    is_temporary = any(part.endswith((".unfinished", ".outgoing", ".lock")) for part in named.parts)
    return is_temporary or any(one.is_relative_to(named) for one in (path.absolute(), Path(os.path.realpath(path))))


def _existing(path: Path) -> Path:
    return next(parent for parent in [path, *path.absolute().parents] if os.path.exists(parent))
