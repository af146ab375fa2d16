"""NRRD: `.nrrd`, and `.nhdr` with its data file beside it.

A header of lines `field: value` that ends with an empty line; `key:=value` pairs and comments, in which programs leave
free text, are skipped over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.store.readers.declared_header import DeclaredHeader, Inflated
from medpretrain3d.store.readers.header import file_beside, numbers, read_lines
from medpretrain3d.store.readers.scan import Scan, checked_affine, spatial_shape
from medpretrain3d.store.skipped_cases import InvalidCaseError

ENDINGS = (".nrrd", ".nhdr")

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_SPACES = {  # signs that turn the file's world into LPS
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
_RAW, _DEFLATED = ("raw",), ("gzip", "gz")


def read_nrrd(path: Path) -> Scan:
    """Read a scan; an axis without direction holds its channels. A file that names no space is LPS, as for ITK.

    Raises:
        InvalidCaseError: no NRRD file, another shape or encoding, claims another size than it has, impossible geometry.
    """
    header, end = _read_header(path)
    sizes = [int(size) for size in numbers(path, header, "sizes")]
    affine, channel_axis = _affine(path, header, sizes)
    num_channels = 1 if channel_axis is None else sizes[channel_axis]
    spatial_shape(path, [*(size for axis, size in enumerate(sizes) if axis != channel_axis), num_channels])
    header_ = DeclaredHeader(path, sizes, _dtype(path, header))

    encoding = header.get("encoding", "").lower()
    if encoding not in _RAW + _DEFLATED:
        raise InvalidCaseError(f"{path}: encoding is neither raw nor gzip; export it in one of these")
    if float(header.get("line skip", "0")) != 0:
        raise InvalidCaseError(f"{path}: its data begin after a line skip; export it again")
    data = _data_file(path, header)
    start, stored = (end, path.stat().st_size - end) if data == path else (0, data.stat().st_size)
    skip = int(numbers(path, header, "byte skip", [0])[0])
    if skip == -1:  # the voxels are the last bytes of the file
        skip = max(stored - header_.num_bytes, 0)
    header_.check(stored - skip, encoding in _DEFLATED)
    with data.open("rb") as file:
        file.seek(start + skip)
        voxels = header_.read(Inflated(file) if encoding in _DEFLATED else file)
    return Scan(path, voxels[None] if channel_axis is None else np.moveaxis(voxels, channel_axis, 0), affine)


def data_files(path: Path) -> list[Path]:
    """Return the files that make up a scan: the header, and the voxels where they lie beside it.

    Raises:
        InvalidCaseError: no NRRD file, or its voxels are missing.
    """
    data = _data_file(path, _read_header(path)[0])
    return [path] if data == path else [path, data]


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's fields in lower case, and the number of the byte behind it."""
    header: dict[str, str] = {}
    end = 0
    for line, end in read_lines(path):
        if not header and not line.startswith("NRRD000"):
            break
        if not line.strip():
            return header, end
        if line[0] != "#" and ":=" not in line:
            field, _, value = line.partition(":")
            header[field.strip().lower()] = value.strip()
    if "data file" in header or "datafile" in header:  # a header of its own may end with its file
        return header, end
    raise InvalidCaseError(f"{path}: is not an NRRD file (no NRRD header in its first bytes); export it again")


def _data_file(path: Path, header: dict[str, str]) -> Path:
    name = header.get("data file", header.get("datafile"))
    return path if name is None else file_beside(path, name)


def _dtype(path: Path, header: dict[str, str]) -> np.dtype:
    name = header.get("type", "").lower()
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        raise InvalidCaseError(f"{path}: unknown voxel type; wanted whole or floating-point numbers", "values")
    return np.dtype(code).newbyteorder(">" if header.get("endian", "").lower() == "big" else "<")


def _affine(path: Path, header: dict[str, str], sizes: Sequence[int]) -> tuple[np.ndarray, int | None]:
    """Return affine to LPS mm, and the axis of the channels, which has no direction."""
    space = header.get("space", "lps").lower()
    if space not in _SPACES:
        raise InvalidCaseError(f"{path}: space is none of {', '.join(_SPACES)}; export it in LPS", "geometry")
    vectors = _vectors(path, header)
    along = [vector for vector in vectors if vector]
    num_axes = len(sizes)
    origin = _vector(header.get("space origin", "(0,0,0)"))
    if len(vectors) != num_axes or not 3 <= num_axes <= 4 or [len(one) for one in [*along, origin]] != [3, 3, 3, 3]:
        raise InvalidCaseError(
            f"{path}: {len(along)} of {num_axes} axes have a direction; wanted three, and channels along a fourth",
            "geometry",
        )
    affine = np.eye(4)
    affine[:3] = np.column_stack([*along, origin])
    channel_axis = next((axis for axis, one in enumerate(vectors) if not one), None)
    shape = [size for axis, size in enumerate(sizes) if axis != channel_axis]
    return checked_affine(path, np.diag([*_SPACES[space], 1.0]) @ affine, shape), channel_axis


def _vectors(path: Path, header: dict[str, str]) -> list[list[float]]:
    """Step along each axis in mm, empty for one without direction."""
    if "space directions" in header:
        return [_vector(found) for found in re.findall(r"none|\([^)]*\)", header["space directions"].lower())]
    vectors: list[list[float]] = []
    for spacing_mm in numbers(path, header, "spacings"):
        row = len([vector for vector in vectors if vector])
        vectors.append([] if math.isnan(spacing_mm) else [spacing_mm * (row == column) for column in range(3)])
    return vectors


def _vector(text: str) -> list[float]:
    """Return `(1,0,0)` as numbers; none for `none`."""
    return [float(value) for value in text.strip("()").split(",")] if text.startswith("(") else []
