"""Files nobody has checked: what a header claims is measured against the file before memory is given to it.

A file of 1.4 kB can claim 3.2 TB of voxels, and 2 MB of gzip can expand to 2.1 GB.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from medpretrain3d.store.skipped_cases import InvalidCaseError

MAX_BYTES = 2**34
"""Largest volume that is read: 16 GiB, sixty times a chest CT of 512 x 512 x 512."""
MAX_DEFLATE_RATIO = 1032
"""Deflate cannot compress further than this."""
MAX_LARGE_RATIO = 256
"""What is larger than `SMALL_BYTES` and compressed further than this is a bomb: CTs reach 2 to 4, masked ones 20, label
maps of single lesions 200."""
SMALL_BYTES = 2**26

DAMAGED_DEFLATE = (EOFError, gzip.BadGzipFile, zlib.error)
_BLOCK_BYTES = 2**22


class Readable(Protocol):
    """Interface of a binary stream to read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class DeclaredHeader:
    """Voxels that a header says are in a file."""

    path: Path
    shape: Sequence[int]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the voxels in bytes, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self, stored: int, is_compressed: bool) -> None:
        """Compare with the number of bytes that are there for the voxels.

        Raises:
            InvalidCaseError: more is claimed than is read, or than `stored` bytes can hold; uncompressed, also less.
        """
        ratio = MAX_DEFLATE_RATIO if self.num_bytes <= SMALL_BYTES else MAX_LARGE_RATIO
        if self.num_bytes > MAX_BYTES:
            raise InvalidCaseError(
                f"{self.path}: header claims {self._told}, {self.num_bytes:,} bytes; read are at most {MAX_BYTES:,}",
                "claim",
            )
        if (is_compressed and self.num_bytes > stored * ratio) or (not is_compressed and self.num_bytes != stored):
            raise self._error(f"the file has {stored:,} bytes{' compressed' if is_compressed else ''} for them")

    def read(self, file: Readable) -> np.ndarray:
        """Read block by block, so that memory grows with what is there and not with what is claimed.

        Returns:
            An array of the claimed shape, the first axis running fastest.

        Raises:
            InvalidCaseError: the file ends early or goes on.
        """
        content = bytearray()
        while len(content) < self.num_bytes:
            block = file.read(min(_BLOCK_BYTES, self.num_bytes - len(content)))
            if not block:
                raise self._error(f"the file ends after {len(content):,} bytes of voxels")
            content += block
        if file.read(1):  # reaching the end also makes gzip compare its checksum
            raise self._error("the file goes on behind them")
        return np.frombuffer(content, dtype=self.dtype).reshape(tuple(self.shape), order="F")

    @property
    def _told(self) -> str:
        shape = tuple(self.shape[:-1] if len(self.shape) > 3 and self.shape[-1] == 1 else self.shape)
        return f"{shape} voxels of {self.dtype}"

    def _error(self, found: str) -> InvalidCaseError:
        return InvalidCaseError(
            f"{self.path}: header claims {self._told}, but {found}; copy or export it again", "claim"
        )


class Inflated:
    """A zlib or gzip stream inside a file, read without ever holding more than is asked for."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: either of the two headers

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            EOFError: the stream is cut off.
            zlib.error: it is damaged.
        """
        while not self._inflater.eof:
            source = self._inflater.unconsumed_tail or self._file.read(2**16)
            content = self._inflater.decompress(source, size)
            if content:
                return content
            if not source and not self._inflater.eof:
                raise EOFError("compressed data ends before its end mark")
        return b""
