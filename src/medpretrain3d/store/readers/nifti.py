"""NIfTI, one or two: `.nii` and `.nii.gz`. A spacing of 0, which nibabel quietly reads as 1, is refused."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers.declared_header import MAX_BYTES, DeclaredHeader
from medpretrain3d.store.readers.scan import SPACING_RANGE_MM, Scan, checked_affine, spatial_shape
from medpretrain3d.store.skipped_cases import InvalidCaseError

ENDINGS = (".nii.gz", ".nii")
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path: Path) -> Scan:
    """Read a scan, scaled as the header says (float32 then); a fourth or fifth axis holds its channels.

    The affine is that of the sform, else of the qform. Of a header without either NIfTI gives the spacing alone (its
    method 1); as nibabel does, axes then run to the patient's left, front and head, and 0 mm is the middle of the scan.

    Raises:
        InvalidCaseError: no NIfTI file, another shape, claims another size than it has, impossible geometry.
    """
    with _opened(path) as file:
        header = _read_header(path, file)
        sizes = [int(size) for size in header["dim"][1 : 1 + max(int(header["dim"][0]), 0)]]
        if int(header["dim"][0]) > 7:
            raise InvalidCaseError(
                f"{path}: header has dim {header['dim'].tolist()}; wanted positive sizes", "geometry"
            )
        shape, num_channels = spatial_shape(path, sizes)
        header_ = DeclaredHeader(path, (*shape, num_channels), _dtype(path, header))
        affine_lps, offset = _LPS_FROM_RAS @ _affine_ras(path, header, shape), _offset(path, header)
        is_compressed = path.name.lower().endswith(".gz")
        header_.check(path.stat().st_size - (0 if is_compressed else offset), is_compressed)
        file.seek(offset)
        voxels = header_.read(file)
    return Scan(path, _scaled(path, header, np.moveaxis(voxels, -1, 0)), affine_lps)


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
            header = kind(start[:num_bytes], check=False)  # type: ignore[no-untyped-call]  # nibabel is typed in part
            if bytes(header["magic"])[:3] == magic:
                return header
    raise InvalidCaseError(
        f"{path}: is not a NIfTI file (no NIfTI header in its first bytes); convert it, e.g. by dcm2niix"
    )


def _dtype(path: Path, header: Any) -> np.dtype:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise InvalidCaseError(
            f"{path}: unknown voxel type {int(header['datatype'])}; export it again", "values"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InvalidCaseError(f"{path}: voxels are {dtype}, wanted whole or floating-point numbers", "values")
    result: np.dtype = dtype
    return result


def _affine_ras(path: Path, header: Any, shape: Sequence[int]) -> np.ndarray:
    from nibabel.spatialimages import HeaderDataError

    low, high = SPACING_RANGE_MM
    spacing_mm = [float(value) for value in header["pixdim"][1:4]]
    if not all(low <= value <= high for value in spacing_mm):  # also false for NaN
        raise InvalidCaseError(
            f"{path}: header has spacing {spacing_mm} mm, wanted {low} to {high}; correct pixdim", "geometry"
        )
    if header["pixdim"][0] == 0:  # qfac, which NIfTI then takes for 1 and nibabel for an error
        header["pixdim"][0] = 1
    try:
        return checked_affine(path, np.asarray(header.get_best_affine(), dtype=np.float64), shape)
    except UserError:
        raise
    except (HeaderDataError, ValueError) as error:
        raise InvalidCaseError(
            f"{path}: impossible orientation in the header ({error}); correct its qform", "geometry"
        ) from error


def _offset(path: Path, header: Any) -> int:
    smallest = int(header["sizeof_hdr"]) + 4  # the four bytes of the extension flag
    offset = float(header["vox_offset"])
    if offset == 0:
        return smallest
    if not (math.isfinite(offset) and smallest <= offset <= MAX_BYTES):
        raise InvalidCaseError(
            f"{path}: header puts voxels at byte {offset:g}, wanted {smallest} or more; export it again", "claim"
        )
    return int(offset)


def _scaled(path: Path, header: Any, voxels: np.ndarray) -> np.ndarray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = math.isfinite(slope) and slope != 0
    if is_scaled and not math.isfinite(intercept):
        raise InvalidCaseError(f"{path}: header scales voxels by {slope} x + {intercept}; correct scl_inter", "values")
    if is_scaled and (slope, intercept) != (1.0, 0.0):
        return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return voxels
