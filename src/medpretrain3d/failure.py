"""Error messages of failures: one line for those that a machine, a disk or an input causes, nothing for a bug."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import sys
from pathlib import Path
from typing import TextIO

from medpretrain3d.errors import MachineError, UserError

_WITHIN_TEXT = re.compile(r"Original Traceback|Traceback \(most recent call last\)")
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|not enough memory|out of memory|Cannot allocate memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE
)
_KILLED_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)(?: is killed by signal: ([^.\n]+))?")
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_CRASHES = ("SIGABRT", "SIGSEGV", "SIGILL", "SIGFPE", "Aborted", "Segmentation fault", "Illegal instruction")
_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM),
    *(errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.EREMOTEIO),
    *(errno.ENOTCONN, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}


def explain(error: BaseException, saves_memory: str) -> str | None:
    """Return the cause of an error and its remedy in one line; None for what only a developer can mend.

    An exception that crossed a process as text, as those of loader workers do, is read from that text.

    Args:
        error: what was raised.
        saves_memory: what to change where memory ran out, as "lower --batch-size".
    """
    message = _explain(error, saves_memory, _OF_THE_MACHINE)
    behind = error.__cause__ or error.__context__
    while message is None and behind is not None:  # what went wrong first, where dealing with it went wrong as well
        message = _explain(behind, saves_memory, _EXHAUSTED)
        behind = behind.__cause__ or behind.__context__
    return message


def _explain(error: BaseException, saves_memory: str, known: set[int]) -> str | None:
    name, message = _innermost(error)
    whole = _text(error)
    is_plain = isinstance(error, UserError) and not _WITHIN_TEXT.search(whole)
    if is_plain or name in (UserError.__name__, MachineError.__name__):
        return str(error) if message == whole else str(UserError(" ".join(message.split())))
    killed = _KILLED_WORKER.search(whole)
    if killed and not _WITHIN_TEXT.search(whole):
        return _killed(f"loader worker {killed[1].strip()}", killed[2] or "", saves_memory)
    if name in ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError") or _OUT_OF_MEMORY.search(message):
        return f"out of memory ({_short(message)}); {saves_memory}"
    code = error.errno if isinstance(error, OSError) and error.errno else _errno_of(message)
    if code in known:
        return _refused(code, error, message)
    return None


def silence_closed_output() -> bool:
    """Let what is still to be written go nowhere where whoever read it has gone, as `head` does; return whether so."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _has_no_reader(stream: TextIO) -> bool:
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file, as where a test reads it
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in asked.poll(0))


def death(what: str, code: int, saves_memory: str) -> str:
    """Return the error message of a process that ended unasked: by its exit code, negative for a signal."""
    if code < 0:
        return _killed(what, signal.Signals(-code).name, saves_memory)
    return f"{what} ended with exit code {code}"


def _killed(what: str, how: str, saves_memory: str) -> str:
    if "Bus error" in how or "SIGBUS" in how:
        return (
            f"{what} was killed by a bus error: shared memory or the disk below a file is full ({_shared_memory()}); "
            "give the container more (docker run --shm-size), or lower data.num_workers"
        )
    if "Killed" in how or "SIGKILL" in how:
        return f"{what} was killed (SIGKILL): by hand, or by the system because memory ran out; {saves_memory}"
    if any(crash in how for crash in _CRASHES):
        return f"{what} was ended by {how}: a library crashed, perhaps an old one; `medpretrain3d doctor` tells which"
    return f"{what} died unexpectedly{f' ({how})' if how else ''}; if memory ran out, {saves_memory}"


def _refused(code: int, error: BaseException, message: str) -> str:
    named = getattr(error, "filename", None)
    place = f"{os.fsdecode(named)}: " if isinstance(named, str | bytes | os.PathLike) else ""
    if code == errno.EMFILE:
        return f"{place}too many open files; raise the limit with `ulimit -n`"
    if code in (errno.ENOSPC, errno.EDQUOT):
        where = "" if place else f" ({_short(message)}; {_shared_memory()})"
        return f"{place}no space left{where}; free some and call again"
    return f"{place}{os.strerror(code)}{'' if place else f' ({_short(message)})'}"


def _shared_memory() -> str:
    place = Path("/dev/shm")
    return f"/dev/shm has {shutil.disk_usage(place).free:,} bytes free" if place.is_dir() else "no /dev/shm"


def _text(error: BaseException) -> str:
    """Return the message of an exception; of a UserError without the escapes that keep it on one line."""
    return str(error.args[0]) if isinstance(error, UserError) and error.args else str(error)


def _innermost(error: BaseException) -> tuple[str, str]:
    """Return class and message of an exception, or of the one whose traceback is its text."""
    text = _text(error)
    if _WITHIN_TEXT.search(text):
        lines = text.rstrip().splitlines()
        # The message begins where the indented lines of the last traceback end.
        start = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1) + 1
        head, _, rest = "\n".join(lines[start:]).partition(": ")
        if re.fullmatch(r"[\w.]+", head):
            return head.rpartition(".")[2], rest
    return type(error).__name__, text


def _errno_of(message: str) -> int | None:
    found = _ERRNO.search(message) or re.search(r": (?:No space left on device) \((\d+)\)", message)
    if found:
        return int(found[1])
    return errno.ENOSPC if "No space left on device" in message else None


def _short(message: str) -> str:
    return " ".join(message.split())[:200]
