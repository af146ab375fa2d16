"""NIfTI files nobody has checked: what the header claims is measured against the file before memory is given to it.

A file of 1.4 kB can claim 3.2 TB of voxels, and a spacing of 0 is quietly read as 1 by nibabel; both are refused here.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medpretrain3d.errors import UserError

ENDINGS = (".nii.gz", ".nii")
MAX_GZIP_RATIO = 1032
"""Deflate cannot compress further than this."""
MAX_BYTES = 2**34
"""Largest volume that is read: 16 GiB, sixty times a chest CT of 512 x 512 x 512."""
SPACING_RANGE_MM = (0.01, 100.0)
"""Spacing outside is an error of units or of the writing program."""

_BLOCK_BYTES = 2**22
_DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels of a 3D image, scaled as the header says, and where they lie.

    A trailing axis of length 1 is dropped.

    Returns:
        voxels (i, j, k) in the file's own order and number type (float32 where scaled), and the affine (4, 4) from
        voxel index to RAS mm, taken from sform, qform or spacing in the order NIfTI prescribes.

    Raises:
        UserError: the file is missing, empty, truncated or damaged, is no NIfTI file, is not 3D, claims another size
            than it has, has an impossible geometry, or holds NaN or infinite voxels.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.name.lower().endswith(ENDINGS):
        raise UserError(f"{path}: wanted a NIfTI file, .nii.gz or .nii; convert it first")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; copy or export it again")
    try:
        with _opened(path) as file:
            header = _read_header(path, file)
            shape, dtype, affine_ras = _shape(path, header), _dtype(path, header), _affine(path, header)
            offset = _offset(path, header)
            num_bytes = math.prod(shape) * dtype.itemsize
            _check_claim(path, shape, dtype, offset + num_bytes)
            file.seek(offset)
            content = _read_exactly(path, file, num_bytes, shape, dtype)
    except _DAMAGED_GZIP as error:
        raise UserError(f"{path}: damaged or truncated gzip data ({error}); copy or export it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    voxels = np.frombuffer(content, dtype=dtype).reshape(shape, order="F")
    return _scaled(path, header, voxels), affine_ras


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _read_header(path: Path, file: BinaryIO) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = file.read(540)
    size = {start[:4].rjust(4, b"\0"), start[:4][::-1].rjust(4, b"\0")}
    for kind, num_bytes, magic in ((Nifti1Header, 348, b"n+1"), (Nifti2Header, 540, b"n+2")):
        if num_bytes.to_bytes(4, "little") in size and len(start) >= num_bytes:
            # check=False: nibabel's check repairs a spacing of 0 in passing, which would hide it.
            header = kind(start[:num_bytes], check=False)
            if bytes(header["magic"])[:3] == magic:
                return header
    raise UserError(f"{path}: is not a NIfTI file (no NIfTI header in its first bytes); convert it, e.g. by dcm2niix")


def _shape(path: Path, header: Any) -> tuple[int, int, int]:
    num_axes = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : 1 + max(num_axes, 0)]]
    if not 1 <= num_axes <= 7 or min(sizes) < 1:
        raise UserError(f"{path}: header has dim {header['dim'].tolist()}; wanted positive sizes; export it again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        advice = "stack the slices" if len(sizes) < 3 else "write one file per channel or time point"
        raise UserError(f"{path}: got shape {tuple(sizes)} ({len(sizes)}D), wanted 3D; {advice}")
    return (sizes[0], sizes[1], sizes[2])


def _dtype(path: Path, header: Any) -> np.dtype:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise UserError(f"{path}: unknown voxel type {int(header['datatype'])}; export it again") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UserError(f"{path}: voxels are {dtype}, wanted whole or floating-point numbers")
    return dtype


def _affine(path: Path, header: Any) -> np.ndarray:
    from nibabel.spatialimages import HeaderDataError

    low, high = SPACING_RANGE_MM
    spacing_mm = [float(value) for value in header["pixdim"][1:4]]
    if not all(low <= value <= high for value in spacing_mm):  # also false for NaN
        raise UserError(f"{path}: header has spacing {spacing_mm} mm, wanted {low} to {high}; correct pixdim")
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise UserError(f"{path}: impossible orientation in the header ({error}); correct its qform") from error
    lengths_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not ((lengths_mm >= low) & (lengths_mm <= high)).all():
        raise UserError(f"{path}: affine {affine.tolist()} gives voxels of {lengths_mm.tolist()} mm; correct its sform")
    if abs(np.linalg.det(affine[:3, :3] / lengths_mm)) < 1e-3:
        raise UserError(f"{path}: affine {affine.tolist()} is singular: axes are parallel; correct its sform")
    return affine


def _offset(path: Path, header: Any) -> int:
    smallest = int(header["sizeof_hdr"]) + 4  # the four bytes of the extension flag
    offset = float(header["vox_offset"])
    if offset == 0:
        return smallest
    if not (math.isfinite(offset) and smallest <= offset <= MAX_BYTES):
        raise UserError(f"{path}: header puts voxels at byte {offset:g}, wanted {smallest} or more; export it again")
    return int(offset)


def _check_claim(path: Path, shape: tuple[int, ...], dtype: np.dtype, claimed: int) -> None:
    stored = path.stat().st_size
    if claimed > MAX_BYTES:
        raise UserError(
            f"{path}: header claims {shape} voxels of {dtype}, {claimed:,} bytes; read are at most {MAX_BYTES:,}"
        )
    is_compressed = path.name.lower().endswith(".gz")
    if (is_compressed and claimed > stored * MAX_GZIP_RATIO) or (not is_compressed and claimed != stored):
        raise _size_error(path, shape, dtype, f"the file has {stored:,} bytes{' compressed' if is_compressed else ''}")


def _read_exactly(path: Path, file: BinaryIO, num_bytes: int, shape: tuple[int, ...], dtype: np.dtype) -> bytearray:
    """Read block by block, so that memory grows with what is there and not with what is claimed."""
    content = bytearray()
    while len(content) < num_bytes:
        block = file.read(min(_BLOCK_BYTES, num_bytes - len(content)))
        if not block:
            raise _size_error(path, shape, dtype, f"the file ends after {len(content):,} bytes of voxels")
        content += block
    if file.read(1):  # reaching the end also makes gzip compare its checksum
        raise _size_error(path, shape, dtype, "the file goes on behind them")
    return content


def _size_error(path: Path, shape: tuple[int, ...], dtype: np.dtype, found: str) -> UserError:
    return UserError(f"{path}: header claims {shape} voxels of {dtype}, but {found}; copy or export it again")


def _scaled(path: Path, header: Any, voxels: np.ndarray) -> np.ndarray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = math.isfinite(slope) and slope != 0
    if is_scaled and not math.isfinite(intercept):
        raise UserError(f"{path}: header scales voxels by {slope} x + {intercept}; correct scl_inter")
    if is_scaled and (slope, intercept) != (1.0, 0.0):
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if voxels.dtype.kind == "f":
        num_bad = voxels.size - int(np.isfinite(voxels).sum())
        if num_bad:
            raise UserError(f"{path}: {num_bad:,} of {voxels.size:,} voxels are NaN or infinite; replace them by -1024")
    return voxels
