"""A file of a case, wherever its bytes lie: a file of its own, or a part of a container."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medpretrain3d.errors import UserError


class Fetcher(Protocol):
    """Where the bytes of a local copy that is filled bit by bit come from."""

    def fetch(self, path: Path, ranges: list[tuple[int, int]]) -> None:
        """Have the bytes of each half-open range in the file, which need not be there yet.

        Raises:
            UserError: what they come from does not give them, or the disk is full.
        """


@dataclass(frozen=True)
class StoredFile:
    """Bytes `offset .. offset + num_bytes` of a file, which are a file of a case.

    Args:
        path: the file on disk.
        offset: first byte.
        num_bytes: None for all there are, in a file of its own.
        member: name within the container; empty for a file of its own.
        fetcher: fills the file with what is read of it; None where all is there.
    """

    path: Path
    offset: int = 0
    num_bytes: int | None = None
    member: str = ""
    fetcher: Fetcher | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def case_id(self) -> str:
        """Name of the folder that it lies in, or would lie in."""
        return Path(self.member or self.path).parent.name

    def size(self) -> int:
        """Return its number of bytes.

        Raises:
            UserError: it is missing, or its container ends before it does.
        """
        self.fetch([])
        try:
            status = self.path.stat()
        except OSError:
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise UserError(f"{self} is missing; prepare the case again")
        there = status.st_size - self.offset
        if self.num_bytes is None:
            return there
        if self.num_bytes > there:
            raise UserError(f"{self} is missing: the container ends before it; prepare the case again")
        return self.num_bytes

    def read(self) -> bytes:
        """Return all its bytes.

        Raises:
            UserError: it is missing, or cannot be read.
        """
        return self.read_range(0, self.size())

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes `start .. stop`, fewer at its end.

        Raises:
            UserError: it cannot be read.
        """
        self.fetch([(start, stop)])
        try:
            with self.path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), stop - start, self.offset + start)
        except OSError as error:
            raise UserError(f"{self}: cannot be read ({error.strerror})") from error

    def fetch(self, ranges: list[tuple[int, int]]) -> None:
        """Have half-open ranges of its bytes on this disk.

        Raises:
            UserError: see `Fetcher`.
        """
        if self.fetcher is not None:
            self.fetcher.fetch(self.path, [(self.offset + start, self.offset + stop) for start, stop in ranges])
