"""One process at a time in a place, on one machine or several that share a disk."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.atomic.leftovers import put_back, remove_unfinished, short_name
from medpretrain3d.errors import UserError
from medpretrain3d.lines import print_line
from medpretrain3d.urls import refuse_url

if TYPE_CHECKING:
    from filelock import LeaseCompromise, SoftFileLease

LEASE_S, HEARTBEAT_S = 180.0, 20.0
"""A process of another machine that gave no sign for the first is taken for dead; it gives one every so often."""
UNREADABLE_S = 5.0
"""A lock that names nobody may be one that is just being written, for this long."""
LOCK = ".lock"
"""Name of the lock in a folder that a command fills."""


class InUse(UserError):
    """Another process is at work in a place."""


@contextmanager
def locked_folder(folder: Path, name: str = LOCK, clean: bool = True) -> Iterator[None]:
    """Keep other processes out of a folder that is filled bit by bit; what a killed one left is removed.

    Args:
        folder: made where it is missing, and taken away again if nothing was put into it.
        name: of the lock; calls with different names do not exclude each other.
        clean: whether to remove what is not finished in it, at any depth. Not where others may work at parts of it.

    Raises:
        InUse: another process is at work there.
        UserError: the disk refuses, or the folder is a URL.
    """
    folder = Path(folder)
    refuse_url(folder)
    with disk_errors(folder):
        is_new = not folder.is_dir()
        if is_new and folder.exists():
            raise UserError(f"{folder}: is a file, wanted a folder; choose another place")
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / name, folder):
            with disk_errors(folder):
                for parent, _, _ in os.walk(folder) if clean else ():
                    remove_unfinished(Path(parent))
            yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Keep other processes from writing one file, or one folder that is made as a whole; the lock is beside it.

    What a killed process left of it is removed. A device or pipe is not locked.

    Raises:
        InUse: another process writes it.
        UserError: the disk refuses, or the place is a URL.
    """
    refuse_url(place)
    shown, place = place, Path(os.path.realpath(place))
    if os.path.exists(shown) and not (place.is_file() or place.is_dir()):
        yield
        return
    with disk_errors(shown):
        place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_name(f".{short_name(place.name)}{LOCK}"), shown):
        with disk_errors(shown):
            put_back(place)
            remove_unfinished(place.parent, {place.name})
        yield


def is_locked(place: Path) -> bool:
    """Return whether a living process holds the lock of `locked`; that of a killed one counts for nothing at once.

    One of another machine lives as long as it renews its lock, by the clock of the disk; so does one of this machine,
    whose process id may have been given to another program since.
    """
    from filelock import SoftFileLease

    place = Path(os.path.realpath(place))
    path = place.with_name(f".{short_name(place.name)}{LOCK}")
    if not path.exists():
        return False
    owner = SoftFileLease(path, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S, thread_local=False).owner
    if owner is None or time.time() - _renewed_ns(path) / 1e9 > LEASE_S:
        return False
    return owner.hostname != _machine() or (_is_there(owner.pid) and _is_running(owner.pid))


@contextmanager
def _locked(path: Path, place: Path) -> Iterator[None]:
    from filelock import SoftFileLease  # takes 50 ms to import

    def lost(loss: LeaseCompromise) -> None:
        if loss.reason == "refresh-failed":  # a network disk away for minutes; who comes next may take the place
            print_line(f"warning: {place}: its lock cannot be renewed ({loss.error}); start nothing else there")
            return
        print_line(f"error: {place}: its lock was taken away ({loss.reason}); this process ends", to_stderr=True)
        os._exit(1)

    lease = SoftFileLease(
        path, lease_duration=LEASE_S, heartbeat_interval=HEARTBEAT_S, on_compromise=lost, thread_local=False
    )
    with disk_errors(place):
        _acquire(lease, path, place)
    try:
        yield
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, path: Path, place: Path) -> None:
    """Take the lock, that of a dead process as well.

    A process of this machine is dead if it is not there. One of another machine is watched: it is alive as soon as it
    renews its lock, and dead once it has not done so for `LEASE_S`, by the clock of this process.

    Raises:
        InUse: its owner is alive.
    """
    from filelock import Timeout

    with suppress(Timeout):
        lease.acquire(timeout=0)
        return
    advice = "wait for its end, end it, or choose another place"
    owner, first = lease.owner, _renewed_ns(path)
    if owner is not None and owner.hostname == _machine():
        if _is_running(owner.pid):
            raise InUse(f"{place}: process {owner.pid} is at work here; {advice}")
        lease.force_break()  # it has ended, and waits for its parent to notice
    elif owner is not None:
        print_line(f"{place}: locked from another machine; watching for up to {LEASE_S:.0f} s whether it lives")
    try:
        timeout_s = LEASE_S + HEARTBEAT_S if owner else UNREADABLE_S
        lease.acquire(timeout=timeout_s, poll_interval=0.5, cancel_check=lambda: _renewed_ns(path) > first)
    except Timeout as error:
        if lease.owner is not None or _renewed_ns(path) > first:
            raise InUse(f"{place}: a process of another machine is at work here; {advice}") from error
        lease.force_break()  # a lock without an owner: a power loss left it empty
        lease.acquire(timeout=UNREADABLE_S)


def _renewed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _machine() -> str:
    """This machine as filelock names it: its name and, in a container, the namespace in which process ids count."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return socket.gethostname()
    is_initial = namespace == 0xEFFFFFFC  # PROC_PID_INIT_INO of <linux/proc_ns.h>
    return socket.gethostname() + ("" if is_initial else f"?pidns-{namespace:x}")


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True


def _is_running(pid: int) -> bool:
    """Return whether a process is there and has not ended; one that nobody waited for is still in the table."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True  # another system, or gone this moment: then the next call finds nobody
    return state not in "ZX"
