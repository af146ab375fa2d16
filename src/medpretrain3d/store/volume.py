"""A scan in memory, in the frame that everything here works in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.case import AIR_HU
from medpretrain3d.store.grid import SAME_PLACE_VOX, Grid
from medpretrain3d.store.readers import Scan, read_scan
from medpretrain3d.store.resample import resample_linear, resample_nearest
from medpretrain3d.store.skipped_cases import InvalidCaseError
from medpretrain3d.store.statistics import ChannelStatistics, channel_statistics
from medpretrain3d.store.unit import Unit, check_unit

WITHOUT_HU = ("MR", "PT", "NM", "US")
"""DICOM's modalities whose values are no Hounsfield units."""
SMALLEST_RANGE_HU = 16
"""Noise alone is wider. With fractions, less is a normalised image, which rounding would empty; else a label map."""
LARGEST_STORED = 32000
"""A channel in units that do not fit int16 is stretched over 0 to this."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Args:
        array: (C, D, H, W), indices growing to Superior, Posterior and the patient's Left. Images are int16 HU (or see
            `rescale`), label maps have whole numbers of any type.
        grid: of `array`; oblique scans keep their oblique affine.
        source_grid: of the file, in its own array order: `grid.map_boxes(boxes, source_grid)` gives voxels of the file.
        rescale: slope and intercept per channel: the file's values are `slope * array + intercept`; empty for HU.
        tilted_grid: of the file's own slices, sheared, where they were moved to lie on `source_grid`; None where the
            file's voxels are those of `source_grid`.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import Grid, Volume
        >>> grid = Grid((4, 4, 4), np.diag([1.0, 1, 1, 1]))
        >>> volume = Volume(np.zeros((1, 4, 4, 4), np.int16), grid, source_grid=grid)
        >>> volume.num_channels, volume.unit
        (1, 'hu')
    """

    array: np.ndarray
    grid: Grid
    source_grid: Grid
    rescale: tuple[tuple[float, float], ...] = ()
    tilted_grid: Grid | None = None

    @property
    def unit(self) -> Unit:
        """Intensity unit of the values."""
        return "any" if self.rescale else "hu"

    @property
    def pad_values(self) -> tuple[int, ...]:
        """Padding value of each channel, which surrounds the volume: -1024 for HU, else the lowest value."""
        return tuple(int(channel.min()) if self.rescale else AIR_HU for channel in self.array)

    @functools.cached_property
    def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Intensity statistics per channel, as a store has them: `normalization.fitted_to(volume)(volume.array)`."""
        return channel_statistics(self.array, self.pad_values)

    @property
    def num_channels(self) -> int:
        """Number of channels of `array`."""
        return len(self.array)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """A view (C, d, h, w) of the region of `size` voxels from `start` on, which ends where the volume does."""
        d, h, w = (slice(first, first + count) for first, count in zip(start, size, strict=True))
        return self.array[:, d, h, w]


def read_volume(path: Path, unit: Unit = "hu", series: str = "", straighten: bool = False) -> Volume:
    """Read an image from any format of `readers`, in any orientation, with all its channels.

    HU are rounded to whole numbers, and padding below -1024 (often -3024 or -2000 outside the scan circle) becomes air.
    With `unit="any"` a channel of whole numbers that fit int16 stays as it is; any other is stretched linearly over
    0 to 32000, which keeps 15 bits, and `rescale` leads back.

    Args:
        path: a file, or a folder with a DICOM series.
        unit: of the values.
        series: of DICOM, which one of several in the folder: its identifier, its key or its description.
        straighten: of DICOM, whether slices that a tilted gantry shifted are moved back; else they are refused.

    Raises:
        InvalidCaseError: whatever `read_scan` refuses, and values that cannot be HU: outside int16, a normalised
            image, a DICOM series of MR, PET or the like, or one without the numbers that lead to HU.
    """
    return volume_of(read_scan(path, series, straighten), unit)


def volume_of(scan: Scan, unit: Unit = "hu") -> Volume:
    """Return what was read, or made from an array, as `read_volume` does.

    Raises:
        UserError: no such unit.
        InvalidCaseError: values that cannot be HU, see `read_volume`.
    """
    check_unit(unit)
    path = scan.path
    if unit == "hu" and scan.modality in WITHOUT_HU:
        raise InvalidCaseError(
            f"{path}: is of modality {scan.modality}, so it is not in HU; prepare with --intensity any", "values"
        )
    if unit == "hu" and scan.not_hu:
        raise InvalidCaseError(
            f"{path}: {scan.not_hu}; export it again, or convert it and say --intensity any", "values"
        )
    if unit == "hu":
        return _canonical(scan, _to_hu(path, scan.voxels))
    channels = [_to_int16(channel) for channel in scan.voxels]
    volume = _canonical(scan, np.stack([stored for stored, _, _ in channels]))
    return replace(volume, rescale=tuple((slope, intercept) for _, slope, intercept in channels))


def read_channels(paths: Sequence[Path], unit: Unit = "hu", series: str = "", straighten: bool = False) -> Volume:
    """Read the channels of one case, from one file or several, into one volume; see `read_volume`.

    Raises:
        InvalidCaseError: a file cannot be read, or lies elsewhere than the first one.
    """
    volumes = [read_volume(path, unit, series, straighten) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        check_same_place(path, volume.grid, paths[0], volumes[0].grid)
    if len(volumes) == 1:
        return volumes[0]
    return replace(
        volumes[0],
        array=np.concatenate([volume.array for volume in volumes]),
        rescale=tuple(one for volume in volumes for one in volume.rescale),
    )


def read_labels(path: Path) -> Volume:
    """Read a label map or instance map (1, D, H, W) from any format of `readers`, in any orientation.

    Raises:
        InvalidCaseError: whatever `read_scan` refuses, several channels, and values that are not whole numbers from 0
        to 65535.
    """
    scan = read_scan(path)
    voxels = scan.voxels
    scan.check_single_channel()
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > 65535:
        raise InvalidCaseError(
            f"{path}: labels from {low} to {high}, wanted 0 to 65535; is it an image rather than a mask?", "values"
        )
    whole = voxels.astype(np.uint16)
    if voxels.dtype.kind == "f" and not np.array_equal(whole, voxels):
        raise InvalidCaseError(
            f"{path}: labels are not whole numbers; was the mask resampled with interpolation?", "values"
        )
    return _canonical(scan, whole)


def labels_on_grid(path: Path, labels: np.ndarray, grid: Grid) -> Volume:
    """Return a label map (i, j, k) that was drawn on the grid of a scan's file as `read_labels` gives one.

    Args:
        path: of what it was drawn from.
        labels: whole numbers.
        grid: of the scan's file, in its own array order.
    """
    return _canonical(Scan(path, labels[None], grid.affine_lps), labels[None])


def check_same_place(path: Path, grid: Grid, reference_path: Path, reference: Grid) -> None:
    """Refuse a file whose voxels are not those of another, whatever order the two files store them in.

    Raises:
        InvalidCaseError: shapes differ, or a corner lies more than `SAME_PLACE_VOX` voxels from that of the other.
    """
    if grid.shape != reference.shape:
        raise InvalidCaseError(
            f"{path}: shape {grid.shape}, {reference_path.name} has {reference.shape} (axes S, P, L)", "mask"
        )
    if not grid.is_close(reference):
        raise InvalidCaseError(
            f"{path}: affine differs from that of {reference_path.name}: corners are up to "
            f"{reference.corner_distance_vox(grid):.3g} voxels apart, allowed are {SAME_PLACE_VOX:g}; write both on "
            "one grid",
            "mask",
        )


def resample(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Return an image at another spacing (D, H, W): linear, averaging where voxels grow.

    Raises:
        UserError: the spacing is not three positive numbers.
    """
    grid = _resampled_grid(volume.grid, spacing_mm)
    return replace(volume, array=resample_linear(volume.array, _steps(volume.grid, grid), grid.shape), grid=grid)


def resample_labels(volume: Volume, spacing_mm: Sequence[float]) -> Volume:
    """Return a label map at another spacing (D, H, W): each voxel takes the label at its centre.

    Raises:
        UserError: the spacing is not three positive numbers.
    """
    grid = _resampled_grid(volume.grid, spacing_mm)
    return replace(volume, array=resample_nearest(volume.array, _steps(volume.grid, grid), grid.shape), grid=grid)


def check_spacing(spacing_mm: Sequence[float]) -> None:
    """Refuse a spacing that is not three positive numbers.

    Raises:
        UserError: it is not.
    """
    if len(spacing_mm) != 3 or not all(0.01 <= value <= 1000 for value in spacing_mm):  # also false for NaN
        raise UserError(
            f"spacing_mm {tuple(spacing_mm)}: wanted three positive numbers, along D, H and W, from 0.01 to 1000"
        )


def check_resampled(spacing_mm: Sequence[float], before: Sequence[int], after: Sequence[int], least: int = 8) -> None:
    """Refuse a spacing that leaves one voxel of an axis.

    Args:
        spacing_mm: along (D, H, W).
        before: voxels of a scan along (D, H, W).
        after: at that spacing.
        least: voxels of an axis from which on that is refused.

    Raises:
        UserError: it does.
    """
    if any(new < 2 and old >= least for old, new in zip(before, after, strict=True)):
        raise UserError(
            f"spacing_mm {tuple(spacing_mm)}: {tuple(before)} voxels would become {tuple(after)}, which show nothing; "
            "lower it, it is in mm"
        )


def _resampled_grid(grid: Grid, spacing_mm: Sequence[float]) -> Grid:
    check_spacing(spacing_mm)
    resampled = grid.resampled(spacing_mm)
    if np.prod(resampled.shape, dtype=float) > 2**33:
        raise UserError(f"spacing_mm {tuple(spacing_mm)}: {grid.shape} voxels would become {resampled.shape}; widen it")
    check_resampled(spacing_mm, grid.shape, resampled.shape)
    return resampled


def _steps(old: Grid, new: Grid) -> list[float]:
    return [float(step) for step in np.array(new.spacing_mm) / np.array(old.spacing_mm)]


def _to_hu(path: Path, voxels: np.ndarray) -> np.ndarray:
    low, high = float(voxels.min()), float(voxels.max())
    limits = np.iinfo(np.int16)
    if round(low) < limits.min or round(high) > limits.max:
        raise InvalidCaseError(
            f"{path}: values from {low:g} to {high:g} do not fit int16, so they are not HU; "
            "check the rescale slope and intercept of the export",
            "values",
        )
    if voxels.dtype.kind == "f":
        rounded = np.rint(voxels)
        if high - low < SMALLEST_RANGE_HU and not np.array_equal(rounded, voxels):
            raise InvalidCaseError(
                f"{path}: fractions from {low:g} to {high:g}, so it is not in HU but normalised; "
                "give the original scan",
                "values",
            )
        voxels = rounded
    return np.maximum(voxels, AIR_HU).astype(np.int16) if low < AIR_HU else voxels.astype(np.int16)


def _to_int16(channel: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return a channel as int16, with the slope and intercept that lead back."""
    low, high = float(channel.min()), float(channel.max())
    limits = np.iinfo(np.int16)
    if limits.min <= low and high <= limits.max and (channel.dtype.kind != "f" or (channel == np.rint(channel)).all()):
        return channel.astype(np.int16), 1.0, 0.0
    slope = (high - low) / LARGEST_STORED or 1.0
    return np.rint((channel.astype(np.float64) - low) / slope).astype(np.int16), slope, low


def _canonical(scan: Scan, voxels: np.ndarray) -> Volume:
    """Return voxels (C, i, j, k) of a scan in the canonical frame."""
    source_grid = scan.grid
    grid, order, mirrored = source_grid.canonical()
    array = voxels.transpose(0, *(axis + 1 for axis in order))
    array = np.flip(array, tuple(axis + 1 for axis in mirrored))
    return Volume(np.ascontiguousarray(array), grid, source_grid, tilted_grid=scan.tilted_grid)
