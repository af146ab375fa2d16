"""MetaImage: `.mha`, and `.mhd` with its `.raw` or `.zraw` beside it.

A header of lines `Key = Value`, then the voxels. Only the keys below are looked at; free text is skipped over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.store.readers.declared_header import DeclaredHeader, Inflated
from medpretrain3d.store.readers.header import file_beside, flag, numbers, read_lines
from medpretrain3d.store.readers.scan import Scan, checked_affine, spatial_shape
from medpretrain3d.store.skipped_cases import InvalidCaseError

ENDINGS = (".mha", ".mhd")

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: Path) -> Scan:
    """Read a scan; channels are interleaved voxel by voxel or the fourth axis.

    Raises:
        InvalidCaseError: no MetaImage file, another shape, claims another size than it has, impossible geometry.
    """
    header, end = _read_header(path)
    sizes = [int(size) for size in numbers(path, header, "DimSize")]
    interleaved = int(numbers(path, header, "ElementNumberOfChannels", [1])[0])
    shape, num_channels = spatial_shape(path, [*sizes, interleaved] if interleaved > 1 else sizes)
    dtype = np.dtype(_TYPES.get(header.get("ElementType", ""), "V"))
    if dtype.kind == "V":
        raise InvalidCaseError(f"{path}: unknown ElementType; wanted one of {', '.join(_TYPES)}", "values")
    is_big = flag(header, "BinaryDataByteOrderMSB") or flag(header, "ElementByteOrderMSB")
    order = (interleaved, *shape) if interleaved > 1 else (*shape, num_channels)
    header_ = DeclaredHeader(path, order, dtype.newbyteorder(">" if is_big else "<"))
    affine = _affine(path, header, len(sizes), shape)

    data = path if header["ElementDataFile"] == "LOCAL" else file_beside(path, header["ElementDataFile"])
    start = end if data is path else 0
    stored = data.stat().st_size - start
    skip = int(numbers(path, header, "HeaderSize", [0])[0])
    if skip == -1:  # the voxels are the last bytes of the file
        skip = max(stored - header_.num_bytes, 0)
    is_compressed = flag(header, "CompressedData")
    header_.check(stored - skip, is_compressed)
    with data.open("rb") as file:
        file.seek(start + skip)
        voxels = header_.read(Inflated(file) if is_compressed else file)
    return Scan(path, voxels if interleaved > 1 else np.moveaxis(voxels, -1, 0), affine)


def data_files(path: Path) -> list[Path]:
    """Return the files that make up a scan: the header, and the voxels where they lie beside it.

    Raises:
        InvalidCaseError: no MetaImage file, or its voxels are missing.
    """
    name = _read_header(path)[0]["ElementDataFile"]
    return [path] if name == "LOCAL" else [path, file_beside(path, name)]


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's values, and the number of the byte behind it."""
    header = {}
    for line, end in read_lines(path):
        key, is_pair, value = line.partition("=")
        if not is_pair:
            break
        header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return header, end
    raise InvalidCaseError(f"{path}: is not a MetaImage file (no ElementDataFile in its header); export it again")


def _affine(path: Path, header: dict[str, str], num_axes: int, shape: Sequence[int]) -> np.ndarray:
    """Compute the affine: in MetaImage each row of the matrix is the direction of one axis; ITK's world is LPS."""

    def first(keys: tuple[str, ...], default: list[float]) -> np.ndarray:
        key = next((key for key in keys if key in header), keys[0])
        values = np.array(numbers(path, header, key, default))
        if len(values) != len(default):
            raise InvalidCaseError(f"{path}: {key} has {len(values)} numbers, wanted {len(default)}", "geometry")
        return values

    identity = np.eye(num_axes).ravel().tolist()
    directions = first(("TransformMatrix", "Rotation", "Orientation"), identity).reshape(num_axes, num_axes).T
    spacing_mm = first(("ElementSpacing", "ElementSize"), [0.0] * num_axes)
    affine = np.eye(4)
    affine[:3, :3] = directions[:3, :3] * spacing_mm[:3]
    affine[:3, 3] = first(("Offset", "Position", "Origin"), [0.0] * num_axes)[:3]
    return checked_affine(path, affine, shape)
