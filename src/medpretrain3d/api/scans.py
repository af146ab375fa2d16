"""A scan in any form that Python programs hold one: a path, an array, an image of nibabel or SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers.scan import Scan, checked_affine, spatial_shape
from medpretrain3d.store.unit import Unit, check_unit
from medpretrain3d.store.volume import Volume, read_volume, volume_of

ScanLike: TypeAlias = Any
"""A path, a NumPy array, a PyTorch tensor on the CPU, an image of nibabel or SimpleITK, or a `Volume`."""

_ARRAY = Path("array")
"""In place of a file's name in messages."""
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_volume(
    scan: ScanLike,
    affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
    spacing_mm: Sequence[float] | None = None,
    unit: Unit = "hu",
    series: str = "",
    straighten: bool = False,
) -> Volume:
    """Return a scan as a volume, in the frame that everything here works in.

    Args:
        scan: a path of any format (`docs/data.md`), or a folder with a DICOM series; an array (i, j, k), or
            (C, i, j, k) of several channels; an image of nibabel or SimpleITK, which know where they lie; a `Volume`
            stays as it is.
        affine_lps: of an array, (4, 4) from voxel index to LPS mm. nibabel's `affine` leads to RAS:
            `np.diag([-1, -1, 1, 1]) @ image.affine`.
        spacing_mm: of an array without an affine: its axes grow to superior, posterior and the patient's left
            (D, H, W), and voxels are this far apart.
        unit: of the values: `hu`, or `any` where they have none.
        series: of a folder with several DICOM series, which one.
        straighten: whether slices that a tilted gantry shifted are moved back.

    Raises:
        UserError: no scan, no such unit, an array without affine and spacing, another form with them, or what
            `read_volume` refuses.

    Example:
        >>> import numpy as np
        >>> import medpretrain3d as mp
        >>> hu = np.zeros((4, 5, 6), np.int16)
        >>> mp.as_volume(hu, spacing_mm=(2.5, 1, 1)).grid.spacing_mm
        (2.5, 1.0, 1.0)
    """
    check_unit(unit)
    is_array = isinstance(scan, np.ndarray) or (hasattr(scan, "__array__") and not hasattr(scan, "affine"))
    if not is_array and (affine_lps is not None or spacing_mm is not None):
        raise UserError(f"affine_lps and spacing_mm are of arrays, got a {type(scan).__name__}; leave them out")
    if isinstance(scan, Volume):
        return scan
    if isinstance(scan, str | Path):
        return read_volume(Path(scan), unit, series, straighten)
    if is_array:
        return volume_of(_of_array(_in_memory(scan), affine_lps, spacing_mm), unit)
    if hasattr(scan, "affine") and hasattr(scan, "dataobj"):
        return volume_of(_of_nibabel(scan), unit)
    if all(hasattr(scan, name) for name in ("GetDirection", "GetOrigin", "GetSpacing")):
        return volume_of(_of_simpleitk(scan), unit)
    raise UserError(
        f"got a {type(scan).__name__} as a scan, wanted a path, an array, an image of nibabel or SimpleITK, or a Volume"
    )


def _in_memory(array: Any) -> np.ndarray:
    """Return an array of NumPy, or the values of a tensor.

    Raises:
        UserError: it has none that NumPy could hold.
    """
    try:
        return np.asarray(array.detach() if hasattr(array, "detach") else array)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = ", ".join(str(getattr(array, name)) for name in ("dtype", "device") if hasattr(array, name))
        raise UserError(
            f"array: a {type(array).__name__} ({kind}) is none of NumPy's; give it on the CPU, as int16 or float32"
        ) from error


def _of_array(
    array: np.ndarray,
    affine_lps: np.ndarray | Sequence[Sequence[float]] | None,
    spacing_mm: Sequence[float] | None,
) -> Scan:
    if (affine_lps is None) == (spacing_mm is None):
        message = "neither" if affine_lps is None else "both"
        raise UserError(f"array: got {message} of affine_lps and spacing_mm, wanted one: where its voxels lie")
    if array.ndim not in (3, 4):
        raise UserError(f"array: of shape {array.shape}, wanted (i, j, k), or (C, i, j, k) of several channels")
    if affine_lps is not None:
        affine = _numbers("affine_lps", affine_lps)
    else:
        spacing = _numbers("spacing_mm", spacing_mm)
        if spacing.shape != (3,) or not (spacing > 0).all():
            raise UserError(f"array: spacing_mm {spacing.tolist()}, wanted three positive numbers, along D, H and W")
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], range(4)] = [*spacing, 1.0]
    if affine.shape != (4, 4):
        raise UserError(f"array: affine of shape {affine.shape}, wanted (4, 4)")
    return _scan(array if array.ndim == 4 else array[None], affine)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"array: {name} {values!r}, wanted numbers") from error


def _of_nibabel(image: Any) -> Scan:
    voxels = np.asanyarray(image.dataobj)
    shape, channels = spatial_shape(Path("nibabel image"), list(voxels.shape))
    return _scan(np.moveaxis(voxels.reshape(*shape, channels), -1, 0), _RAS @ np.asarray(image.affine))


def _of_simpleitk(image: Any) -> Scan:
    import SimpleITK

    if image.GetDimension() != 3:
        raise UserError(f"SimpleITK image: of {image.GetDimension()} dimensions, wanted 3")
    voxels = SimpleITK.GetArrayFromImage(image)  # (k, j, i), channels last
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _scan(voxels.transpose(3, 2, 1, 0), affine)


def _scan(voxels: np.ndarray, affine: np.ndarray) -> Scan:
    if voxels.dtype.kind not in "iufb":  # of complex numbers a part would be left out
        raise UserError(f"array: of {voxels.dtype}, wanted numbers: whole ones or floating-point")
    if min(voxels.shape) < 1:
        raise UserError(f"array: of shape {voxels.shape[1:]}, wanted at least one voxel")
    return Scan(_ARRAY, voxels, checked_affine(_ARRAY, affine, voxels.shape[1:]))
