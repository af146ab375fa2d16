"""A scan in memory, in the frame that everything here works in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.data.case import AIR_HU
from medpretrain3d.data.grid import Grid
from medpretrain3d.data.nifti import read_nifti
from medpretrain3d.data.resample import resample_linear, resample_nearest
from medpretrain3d.errors import UserError

SMALLEST_FLOAT_RANGE = 16
"""A floating-point image with fractions and less range than this was normalised; rounding would empty it."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Args:
        array: (C, D, H, W), indices growing to Superior, Posterior and the patient's Left. Images are int16 HU,
            label maps have whole numbers of any type.
        grid: of `array`; oblique scans keep their oblique affine.
        source_grid: of the file, in its own array order: `grid.map_boxes(boxes, source_grid)` gives voxels of the file.
    """

    array: np.ndarray
    grid: Grid
    source_grid: Grid

    @property
    def num_channels(self) -> int:
        """Of `array`."""
        return len(self.array)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """A view (C, d, h, w) of the region of `size` voxels from `start` on, which ends where the volume does."""
        d, h, w = (slice(first, first + count) for first, count in zip(start, size, strict=True))
        return self.array[:, d, h, w]


def read_volume(path: Path) -> Volume:
    """Read an image of one channel from NIfTI, in any orientation.

    Values are rounded to whole HU; padding below -1024 (often -3024 or -2000 outside the scan circle) becomes air.

    Raises:
        UserError: whatever `read_nifti` refuses, and values that cannot be HU: outside int16, or a normalised image.
    """
    voxels, affine_ras = read_nifti(path)
    return _canonical(_to_hu(path, voxels), affine_ras)


def read_channels(paths: Sequence[Path]) -> Volume:
    """Read the channels of one case (C files of one channel) into one volume.

    Raises:
        UserError: a file cannot be read, or lies elsewhere than the first one.
    """
    volumes = [read_volume(path) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_same_place(path, volume.grid, paths[0], volumes[0].grid)
    if len(volumes) == 1:
        return volumes[0]
    return Volume(np.concatenate([volume.array for volume in volumes]), volumes[0].grid, volumes[0].source_grid)


def read_labels(path: Path) -> Volume:
    """Read a label map or instance map (1, D, H, W) from NIfTI, in any orientation.

    Raises:
        UserError: whatever `read_nifti` refuses, and values that are not whole numbers from 0 to 65535.
    """
    voxels, affine_ras = read_nifti(path)
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > 65535:
        raise UserError(f"{path}: labels from {low} to {high}, wanted 0 to 65535; is it an image rather than a mask?")
    whole = voxels.astype(np.uint16)
    if voxels.dtype.kind == "f" and not np.array_equal(whole, voxels):
        raise UserError(f"{path}: labels are not whole numbers; was the mask resampled with interpolation?")
    return _canonical(whole, affine_ras)


def check_same_place(path: Path, grid: Grid, reference_path: Path, reference: Grid) -> None:
    """Refuse a file whose voxels are not those of another, whatever order the two files store them in.

    Raises:
        UserError: shapes differ, or an entry of the affines by more than 1e-3 mm.
    """
    if grid.shape != reference.shape:
        raise UserError(f"{path}: shape {grid.shape}, {reference_path.name} has {reference.shape} (axes S, P, L)")
    if not grid.is_close(reference):
        distance_mm = float(np.abs(grid.affine_lps - reference.affine_lps).max())
        raise UserError(f"{path}: affine differs from that of {reference_path.name} by {distance_mm:.3g} mm")


def resample(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """An image at another spacing (D, H, W): linear, averaging where voxels grow.

    Raises:
        UserError: the spacing is not three positive numbers.
    """
    grid = _resampled_grid(volume.grid, spacing_mm)
    return Volume(resample_linear(volume.array, _steps(volume.grid, grid), grid.shape), grid, volume.source_grid)


def resample_labels(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """A label map at another spacing (D, H, W): each voxel takes the label at its centre.

    Raises:
        UserError: the spacing is not three positive numbers.
    """
    grid = _resampled_grid(volume.grid, spacing_mm)
    return Volume(resample_nearest(volume.array, _steps(volume.grid, grid), grid.shape), grid, volume.source_grid)


def check_spacing(spacing_mm: Sequence[float]) -> None:
    """Refuse a spacing that is not three positive numbers.

    Raises:
        UserError: it is not.
    """
    if len(spacing_mm) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing_mm):
        raise UserError(f"spacing_mm {tuple(spacing_mm)}: wanted three positive numbers, along D, H and W")


def _resampled_grid(grid: Grid, spacing_mm: Sequence[float]) -> Grid:
    check_spacing(spacing_mm)
    resampled = grid.resampled(spacing_mm)
    if np.prod(resampled.shape, dtype=float) > 2**33:
        raise UserError(f"spacing_mm {tuple(spacing_mm)}: {grid.shape} voxels would become {resampled.shape}; widen it")
    return resampled


def _steps(old: Grid, new: Grid) -> list[float]:
    return [float(step) for step in np.array(new.spacing_mm) / np.array(old.spacing_mm)]


def _to_hu(path: Path, voxels: np.ndarray) -> np.ndarray:
    low, high = float(voxels.min()), float(voxels.max())
    limits = np.iinfo(np.int16)
    if round(low) < limits.min or round(high) > limits.max:
        raise UserError(
            f"{path}: values from {low:g} to {high:g} do not fit int16, so they are not HU; "
            "check the rescale slope and intercept of the export"
        )
    if voxels.dtype.kind == "f":
        rounded = np.rint(voxels)
        if high - low < SMALLEST_FLOAT_RANGE and not np.array_equal(rounded, voxels):
            raise UserError(
                f"{path}: fractions from {low:g} to {high:g}, so it is not in HU but normalised; give the original scan"
            )
        voxels = rounded
    return np.maximum(voxels, AIR_HU).astype(np.int16) if low < AIR_HU else voxels.astype(np.int16)


def _canonical(voxels: np.ndarray, affine_ras: np.ndarray) -> Volume:
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras
    source_grid = Grid((voxels.shape[0], voxels.shape[1], voxels.shape[2]), affine_lps)
    grid, order, mirrored = source_grid.canonical()
    array = np.flip(voxels.transpose(order), mirrored)
    return Volume(np.ascontiguousarray(array)[None], grid, source_grid)
