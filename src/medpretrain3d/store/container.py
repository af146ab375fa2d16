"""Containers: many cases in one tar file (POSIX pax, nothing compressed), which only ever grows.

A case is a *record*: the members `cases/<id>/image.b2nd`, `mask.b2nd` where there is one, and last `case.json`, with
which it is complete. `cases/.wh.<id>`, the whiteout of container images, says that a case is gone. The time of change
of a member is no time but counts how often the case has been written, from 1: of several records the highest holds.
What a killed process leaves is the beginning of a record at the end of the file: nobody reads it, and who appends next
takes it away.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.atomic.flush import flush
from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_name
from medpretrain3d.store.case_files import CASES, NAMES, SIDECAR, CaseFiles

SUFFIX = ".tar"
MAX_BYTES = 16 * 2**30
"""A container of this size is full, and the next one is begun: 50,000 CTs of 100 MB are 300 files."""
WHITEOUT = ".wh."
_BLOCK = tarfile.BLOCKSIZE
Extent = tuple[int, int]
"""First byte and number of bytes of a member's content."""
# What damaged bytes raise in tarfile, beside its own errors.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, TypeError, RecursionError, OSError)


class Record(NamedTuple):
    """A case of a container, complete, or the word that it is gone."""

    case_id: str
    generation: int
    """How often the case has been written, with this time."""
    files: CaseFiles | None
    """None where it is gone."""


@dataclass(frozen=True)
class Scan:
    """What a container holds, read from its headers."""

    records: tuple[Record, ...]
    """In the order in which they were written."""
    end: int
    """Of the last complete record, in bytes."""
    can_grow: bool
    """Whether nothing but a record that was not finished follows, so that it may be cut off; False for damage."""


def scan_container(path: Path) -> Scan:
    """Read the headers of a container.

    Raises:
        UserError: it is missing or cannot be read.
    """
    records: list[Record] = []
    end = stop = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            extents: dict[str, Extent] = {}
            for member in _members(file.fileno(), path, size):
                stop = member.stop
                case_id, name = member.case_id, member.file_name
                if name == WHITEOUT:
                    records.append(Record(case_id, member.generation, None))
                elif name != SIDECAR:
                    extents[name] = member.extent
                    continue
                else:
                    extents[name] = member.extent
                    records.append(Record(case_id, member.generation, _case_files(path, case_id, extents)))
                extents, end = {}, stop
            return Scan(tuple(records), end, _is_torn(file.fileno(), stop, size))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); prepare or pack the store again") from error


class _Member(NamedTuple):
    case_id: str
    file_name: str
    extent: Extent
    generation: int
    stop: int
    """Where the next one begins."""


def _members(file: int, path: Path, size: int) -> Iterator[_Member]:
    """Give the complete members up to the first that is not, or that is none of ours."""
    if size < _BLOCK:
        return
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all
                stop = info.offset_data + _padded(info.size)
                folder, case_id, name = _parts(info.name)
                if stop > size or not info.isreg() or info.sparse is not None or folder != CASES:
                    return
                plain_name(case_id, "case id")
                yield _Member(case_id, name, (info.offset_data, info.size), int(info.mtime), stop)
    except (*_DAMAGED, UserError):
        return


def _parts(name: str) -> tuple[str, str, str]:
    """Return folder, case id and file name of a member; the name of a whiteout is `.wh.`.

    Raises:
        ValueError: it is no name of ours.
    """
    parts = name.split("/")
    if len(parts) == 2 and parts[1].startswith(WHITEOUT):
        return parts[0], parts[1].removeprefix(WHITEOUT), WHITEOUT
    folder, case_id, file_name = parts
    if file_name not in NAMES:
        raise ValueError(file_name)
    return folder, case_id, file_name


def _is_torn(file: int, stop: int, size: int) -> bool:
    """Whether a file ends in the middle of the member that begins at `stop`, rather than that this one is damaged."""
    if stop == size:
        return True
    for _ in range(2):  # a long name has a header of its own
        if stop + _BLOCK > size:
            return True
        try:
            info = tarfile.TarInfo.frombuf(os.pread(file, _BLOCK, stop), "utf-8", "surrogateescape")
        except _DAMAGED:
            return False
        stop += _BLOCK + _padded(info.size)
        if stop > size:
            return True
        if info.type not in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            return False
    return False


class ContainerWriter:
    """Appends records to the containers of a folder whose names begin with a prefix; one process, one container.

    A process that gets a container locks it (`flock`), the next takes or makes another. Where the file system knows no
    locks, each takes a new one. A prefix belongs to the processes of one machine, which share a lock of their own.

    Args:
        folder: `STORE/containers`.
        prefix: of the containers' names.
        max_bytes: a container of this size is full.
    """

    def __init__(self, folder: Path, prefix: str, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.prefix, self.max_bytes = folder, prefix, max_bytes
        self._file: _Tail | None = None

    def append(self, case_id: str, contents: Mapping[str, bytes], generation: int) -> CaseFiles:
        """Append a case, which is complete once this returns; killed before, nobody reads any of it.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        extents: dict[str, Extent] = {}
        with self._appending() as file:
            for name in (one for one in NAMES if one in contents):
                if name == SIDECAR:  # never on disk before what it speaks of
                    os.fsync(file.number)
                extents[name] = file.append(f"{CASES}/{case_id}/{name}", contents[name], generation)
        return _case_files(file.path, case_id, extents)

    def remove(self, case_id: str, generation: int) -> None:
        """Append that a case is gone.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        with self._appending() as file:
            file.append(f"{CASES}/{WHITEOUT}{case_id}", b"", generation)

    def close(self) -> None:
        """Let others append."""
        if self._file is not None:
            os.close(self._file.number)
            self._file = None

    @contextmanager
    def _appending(self) -> Iterator[_Tail]:
        with disk_errors(self.folder):
            if self._file is not None and self._file.end >= self.max_bytes:
                self.close()
            self._file = self._file or self._take()
            file = self._file
        with disk_errors(file.path):
            before = file.end
            try:
                yield file
                os.fsync(file.number)
            except BaseException:
                file.end = before
                os.ftruncate(file.number, before)
                raise

    def _take(self) -> _Tail:
        """Open the first container that nobody else appends to and that is neither full nor damaged, or a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for index in itertools.count():
            path = self.folder / f"{self.prefix}-{index:05d}{SUFFIX}"
            is_new = not path.exists()
            try:
                number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if is_new else 0), 0o666)
            except FileExistsError:
                continue
            if _is_locked_now(number, is_new) and (scan := scan_container(path)).can_grow and scan.end < self.max_bytes:
                os.ftruncate(number, scan.end)
                flush(self.folder)
                return _Tail(path, number, scan.end)
            os.close(number)
        raise AssertionError


@dataclass
class _Tail:
    """The end of an open container."""

    path: Path
    number: int
    """Its descriptor."""
    end: int

    def append(self, name: str, content: bytes, generation: int) -> Extent:
        """Write a member and return where its content lies."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(content), generation
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        start = self.end + len(header)
        self._write(header)
        self._write(content)
        self._write(bytes(_padded(len(content)) - len(content)))
        return start, len(content)

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:  # one call takes 2 GB at most
            written = os.pwrite(self.number, left, self.end)
            self.end, left = self.end + written, left[written:]


def _is_locked_now(number: int, is_new: bool) -> bool:
    """Lock an open file until it is closed; where the file system knows no locks, only a new file is nobody else's."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return is_new
    return True


def _case_files(path: Path, case_id: str, extents: Mapping[str, Extent]) -> CaseFiles:
    in_order = [number for name in NAMES for number in extents.get(name, (0, 0))]
    return CaseFiles.of_container(path, case_id, in_order)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
