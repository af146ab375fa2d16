"""Compressed arrays on disk (Blosc2 b2nd): one file per array, any crop readable without the rest.

Every chunk has a checksum in the array's metadata: decompression alone does not notice a flipped bit, and a network
would be trained on the noise it makes.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from medpretrain3d.errors import UserError
from medpretrain3d.store.stored_file import StoredFile

CHUNK_VOX = 32
"""Edge of a chunk, the smallest part that is read, checked and decompressed."""
CHUNKS = "chunks"
"""Name of the metadata that says where each compressed chunk lies in the file, and its XXH3.

With both a random 96^3 crop takes 1.5 ms; asking Blosc2 for each chunk adds 0.25 ms, CRC-32 another 0.25 ms.
"""
_HEADER = 4096
"""Bytes in which the header of an array's file ends."""
_CHUNK = np.dtype([("offset", "<i8"), ("size", "<i4"), ("xxh3", "<u8")])
"""In the order of the chunks; size 0 for a chunk of zeros, which are not in the file."""


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an integer array whose last three axes are D, H, W.

    Raises:
        OSError: the file cannot be written.
        MemoryError: there is too little.
    """
    # Python writes the file because Blosc2 reports a full disk as a RuntimeError that does not say so.
    path.write_bytes(array_bytes(array))


def array_bytes(array: np.ndarray) -> bytes:
    """Return the file of an integer array whose last three axes are D, H, W; the same array gives the same bytes.

    Raises:
        MemoryError: there is too little.
    """
    try:
        return _array_bytes(array)
    except RuntimeError as error:  # how Blosc2 says so; nothing else can fail in compressing what is in memory
        raise MemoryError(f"for {array.nbytes:,} bytes and the same compressed") from error


def _array_bytes(array: np.ndarray) -> bytes:
    blosc2 = _blosc2()
    chunks = (1,) * (array.ndim - 3) + tuple(min(CHUNK_VOX, size) for size in array.shape[-3:])
    compressed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=chunks,
        # Bit shuffling and LZ4HC: of a chest with noise of 20 HU 0.36 of the size remain and a random 96^3 crop costs
        # 2.5 ms of processor time; with Zstandard on shuffled bytes it is 0.32 and 4.2 ms, with LZ4 0.38 and 2.6 ms.
        cparams={
            "codec": blosc2.Codec.LZ4HC,
            "clevel": 5,
            "filters": [blosc2.Filter.BITSHUFFLE],
            "typesize": array.itemsize,
            "nthreads": 1,
        },
    )
    framed = blosc2.ndarray_from_cframe(compressed.to_cframe(), copy=True)
    framed.schunk.vlmeta[CHUNKS] = _chunk_table(framed).tobytes()  # behind the chunks, which stay where they are
    return bytes(framed.to_cframe())


def _chunk_table(framed: Any) -> np.ndarray:
    frame = framed.to_cframe()
    end = int.from_bytes(frame[11:15], "big")  # length of the header, behind which the chunks follow one another
    table = np.empty(framed.schunk.nchunks, dtype=_CHUNK)
    for number in range(len(table)):
        chunk = framed.schunk.get_chunk(number)
        if frame[end : end + len(chunk)] != chunk:
            chunk = b""  # Blosc2 only marks that there are zeros
        table[number] = (end, len(chunk), xxh3_64_intdigest(chunk))
        end += len(chunk)
    return table


def array_shape(file: Path | StoredFile) -> tuple[int, ...]:
    """Return shape of a stored array.

    Raises:
        UserError: the file is missing or damaged.
    """
    return tuple(_open(_stored(file)).shape)


def read_crop(
    file: Path | StoredFile,
    start: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    fill: int | Sequence[int] = 0,
) -> np.ndarray:
    """Read a crop of the last three axes, or all of them.

    Args:
        file: a file of its own, or a part of one.
        start: lowest voxel (D, H, W) of the crop, may be negative; None for the lowest of the array.
        size: voxels (D, H, W) of the crop, may reach over the end; None for all that follow `start`.
        fill: value of what lies outside the array; one for each entry of the first axis, or one for all.

    Raises:
        UserError: the file is missing or damaged.
    """
    place = _stored(file)
    stored = _open(place)
    try:
        table = _checked_table(stored, place.size())
    except (RuntimeError, ValueError, OSError, KeyError, IndexError, TypeError) as error:
        raise _damaged(place, error) from error
    shape = np.array(stored.shape[-3:])
    begin = np.zeros(3, dtype=int) if start is None else np.array(start, dtype=int)
    end = np.maximum(shape, begin) if size is None else begin + np.array(size, dtype=int)
    low, high = np.clip(begin, 0, shape), np.clip(end, 0, shape)
    crop: np.ndarray = np.empty((*stored.shape[:-3], *(end - begin).tolist()), dtype=stored.dtype)
    if (low > begin).any() or (high < end).any():
        crop[...] = fill if isinstance(fill, int) else np.reshape(fill, (-1, 1, 1, 1))
    if (high > low).all():
        try:
            _read_chunks(place, stored, table, low, high, crop[_region(low - begin, high - begin)])
        except (RuntimeError, ValueError, OSError, KeyError, IndexError, TypeError, SyntaxError) as error:
            raise _damaged(place, error) from error
    return crop


def check_chunks(file: Path | StoredFile) -> None:
    """Compare every chunk of an array with its checksum, without decompressing any.

    Raises:
        UserError: the file is missing or damaged.
    """
    place = _stored(file)
    try:
        table = _checked_table(_open(place), place.size())
        if place.fetcher is not None:
            place.fetch([(0, place.size())])
        with place.path.open("rb", buffering=0) as opened:
            for number, (offset, size, digest) in enumerate(table.tolist()):
                if xxh3_64_intdigest(os.pread(opened.fileno(), size, place.offset + offset)) != digest:
                    raise ValueError(f"checksum of chunk {number} differs")
    except (RuntimeError, ValueError, OSError, KeyError, IndexError, TypeError) as error:
        raise error if isinstance(error, UserError) else _damaged(place, error) from error


def _checked_table(stored: Any, num_bytes: int) -> np.ndarray:
    """Return the chunk table, once the shape that the header claims is known to match it.

    Raises:
        ValueError: another number of chunks than the shape has, or a chunk larger than is ever written.
    """
    edges = stored.chunks[-3:]
    per_axis = (-(-size // edge) for size, edge in zip(stored.shape[-3:], edges, strict=True))
    num_chunks = math.prod(stored.shape[:-3]) * math.prod(per_axis)
    table = np.frombuffer(stored.schunk.vlmeta[CHUNKS], dtype=_CHUNK)
    if len(table) != num_chunks or max(edges) > CHUNK_VOX or table["size"].max(initial=0) > num_bytes:
        raise ValueError(f"its header claims {stored.shape} voxels, which are not those of its {len(table)} chunks")
    return table


def _read_chunks(
    place: StoredFile, stored: Any, table: np.ndarray, low: np.ndarray, high: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` with what is stored between `low` and `high` of the last three axes."""
    blosc2 = _blosc2()
    edges = stored.chunks[-3:]
    num_d, num_h, num_w = (-(-size // edge) for size, edge in zip(stored.shape[-3:], edges, strict=True))
    chunk = np.empty(edges, dtype=stored.dtype)
    spans = [_spans(*axis) for axis in zip(edges, low.tolist(), high.tolist(), strict=True)]
    wanted = [
        (((channel * num_d + d) * num_h + h) * num_w + w, (*leading, *into), part)
        for channel, leading in enumerate(np.ndindex(*stored.shape[:-3]))
        for (d, h, w), part, into in (zip(*spans, strict=True) for spans in itertools.product(*spans))
    ]
    if place.fetcher is not None:
        place.fetch([(offset, offset + size) for offset, size, _ in (table[number].item() for number, _, _ in wanted)])
    decompressed = b""
    with place.path.open("rb", buffering=0) as file:
        for number, into, part in wanted:
            offset, size, digest = table[number].item()
            compressed = os.pread(file.fileno(), size, place.offset + offset)
            if xxh3_64_intdigest(compressed) != digest:
                raise ValueError(f"checksum of chunk {number} differs")
            if not compressed:
                out[into] = 0
                continue
            if compressed != decompressed:  # chunks of nothing but air are alike
                blosc2.decompress2(compressed, dst=chunk)
                decompressed = compressed
            out[into] = chunk[part]


def _spans(edge: int, low: int, high: int) -> list[tuple[int, slice, slice]]:
    """Split `low .. high` by the chunks along an axis: chunk number, slice of the chunk, slice of the crop."""
    spans = []
    for number in range(low // edge, (high - 1) // edge + 1):
        first = number * edge
        begin, end = max(low, first), min(high, first + edge)
        spans.append((number, slice(begin - first, end - first), slice(begin - low, end - low)))
    return spans


@functools.cache
def _blosc2() -> ModuleType:
    import blosc2

    # With more than one thread a worker forked after the first read waits forever for its parent's threads.
    blosc2.set_nthreads(1)
    result: ModuleType = blosc2
    return result


def _region(low: np.ndarray, high: np.ndarray) -> tuple[Any, ...]:
    return (..., *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))


def _stored(file: Path | StoredFile) -> StoredFile:
    return file if isinstance(file, StoredFile) else StoredFile(file)


def _open(place: StoredFile) -> Any:  # blosc2.NDArray
    num_bytes = place.size()
    try:
        if place.fetcher is not None:
            place.fetch([(0, _HEADER)])
            header = place.read_range(0, _HEADER)
            # Lengths of header and chunks, behind which lies what says where each chunk is (Blosc2's frame format).
            end = int.from_bytes(header[11:15], "big") + int.from_bytes(header[39:47], "big")
            place.fetch([(min(end, num_bytes), num_bytes)])
        stored = _blosc2().open(str(place.path), mode="r", offset=place.offset, dparams={"nthreads": 1})
        if not isinstance(stored, _blosc2().NDArray):
            raise ValueError("its header is that of no array")
        return stored
    except UserError:
        raise
    except Exception as error:  # Blosc2 evaluates parts of the header, which fails in as many ways as it has bytes
        raise _damaged(place, error) from error


def _damaged(place: StoredFile, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{place.case_id}: {place} is damaged ({reason}); call `medpretrain3d prepare RAW STORE --check`")
