"""Copies of stores on disks of this machine, staged ones and mirrors of URLs: who uses which, and which go first.

A process holds a shared lock beside each copy that it reads until it ends, however it ends, and children that it forks
hold it too. Only a copy whose lock nobody holds is removed, the one that was used longest ago first.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_OURS = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?")
"""Names of the folders of copies, which are hashes; nothing else is touched."""
_held: dict[Path, int] = {}
"""Locks of this process by the copy, held until it ends."""


@dataclass(frozen=True)
class LocalCopy:
    """A copy, or a part of one."""

    folder: Path
    """Named by hashes, with one in it that is called as the store."""
    name: str
    """Of the store."""
    num_bytes: int
    """That its removal frees: what another copy links is not among them."""
    used_s: float
    """When a process began to read it, in seconds since the epoch."""
    is_in_use: bool
    """Also where the file system has no locks, so that nobody knows."""


def use(folder: Path) -> None:
    """Keep a copy from being removed as long as this process lives; to be called before looking what is in it."""
    folder = Path(folder)
    if folder in _held:
        return
    lock = _lock_of(folder)
    with suppress(OSError):  # a disk that is full, of others, or without locks: nothing is removed there
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(number, fcntl.LOCK_SH)
            if _is_at(number, lock):
                break
            os.close(number)  # it was removed with its copy meanwhile
        os.utime(number)
        _held[folder] = number


def local_copies(root: Path) -> list[LocalCopy]:
    """Return the copies below a folder, the one that was used longest ago first."""
    folders = [path for path in Path(root).glob("*/") if _OURS.fullmatch(path.name)]
    return sorted(map(_look, folders), key=lambda one: (one.used_s, one.folder))


def evict(root: Path, num_bytes: int) -> list[LocalCopy]:
    """Remove copies that no process uses, oldest first, until so many bytes are freed.

    Args:
        root: the folder they lie in.
        num_bytes: to free; what is in use may leave fewer.

    Returns:
        What was removed.
    """
    removed: list[LocalCopy] = []
    for copy in local_copies(root) if num_bytes > 0 else ():
        if sum(one.num_bytes for one in removed) >= num_bytes:
            break
        with _alone(copy.folder) as is_free:
            if is_free:
                shutil.rmtree(copy.folder, ignore_errors=True)
                removed.append(copy)
    return removed


def evict_to(root: Path, limit_bytes: int) -> list[LocalCopy]:
    """Remove copies that no process uses, oldest first, until those that are left take at most so many bytes."""
    return evict(root, sum(copy.num_bytes for copy in local_copies(root)) - limit_bytes)


def _look(folder: Path) -> LocalCopy:
    lock, used_s, is_in_use = _lock_of(folder), 0.0, False
    with suppress(OSError):  # removed meanwhile
        used_s = folder.stat().st_mtime  # of a version that locked nothing
        used_s, is_in_use = lock.stat().st_mtime, _is_locked(lock)
    name = next((path.name for path in sorted(folder.glob("*/"))), "")
    return LocalCopy(folder, name, _num_bytes(folder), used_s, is_in_use)


def _num_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(parent, name))
                total += 512 * status.st_blocks if status.st_nlink == 1 else 0  # files of mirrors have holes
    return total


def _is_locked(lock: Path) -> bool:
    number = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the lock of a copy for removing it; whether nobody else has it."""
    lock, number = _lock_of(folder), None
    try:
        number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = _is_at(number, lock)
    except OSError:
        is_free = False
    try:
        yield is_free
        if is_free:
            lock.unlink(missing_ok=True)
    finally:
        if number is not None:
            os.close(number)


def _is_at(number: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), lock.stat())
    except FileNotFoundError:
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.in_use")
