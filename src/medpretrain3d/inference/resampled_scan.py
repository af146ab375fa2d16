"""A scan at another spacing, resampled as far as it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpretrain3d.inference.voxel_reader import HeldScan, SameScan, VoxelReader
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.resample import resample_linear, resample_region
from medpretrain3d.store.volume import check_spacing


class ResampledScan(SameScan):
    """A scan at another spacing, voxel for voxel as if it were resampled whole, of which a slab is in memory.

    The slab holds the slices that were read last. Tiles that are read from the first slice to the last, as
    `detect_volume` does, have every slice resampled once.

    Args:
        scan: of which all voxels are read.
        spacing_mm: along (D, H, W).

    Raises:
        UserError: the spacing is not three positive numbers.
    """

    def __init__(self, scan: VoxelReader, spacing_mm: Sequence[float]) -> None:
        check_spacing(spacing_mm)
        super().__init__(scan)
        self.grid = scan.grid.resampled(spacing_mm)
        self._array = HeldScan.of(scan).array
        self._steps = _steps(scan.grid, spacing_mm)
        self._slices = range(0)
        self._slab = self._resample(self._slices)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `VoxelReader`."""
        wanted = range(start[0], min(start[0] + size[0], self.grid.shape[0]))
        if wanted.start < self._slices.start or wanted.stop > self._slices.stop:
            self._move_to(wanted)
        first = wanted.start - self._slices.start
        h, w = (slice(low, low + count) for low, count in zip(start[1:], size[1:], strict=True))
        return self._slab[:, first : first + len(wanted), h, w]

    def _move_to(self, wanted: range) -> None:
        """Keep what the slab already has of the wanted slices, as far as they follow each other, and add the rest."""
        has_first = wanted.start in self._slices
        kept = self._slab[:, wanted.start - self._slices.start :] if has_first else self._slab[:, :0]
        rest = range(wanted.start + kept.shape[1], wanted.stop)
        self._slab, self._slices = np.concatenate([kept, self._resample(rest)], axis=1), wanted

    def _resample(self, slices: range) -> np.ndarray:
        return resample_linear(self._array, self._steps, self.grid.shape, slices)


class ResampledRegions(SameScan):
    """A scan at another spacing, voxel for voxel as if it were resampled whole, of which nothing is in memory.

    Every region is read and resampled by itself, which takes longer than `ResampledScan` where tiles overlap.

    Args:
        scan: of which the voxels of each region are read.
        spacing_mm: along (D, H, W).

    Raises:
        UserError: the spacing is not three positive numbers.
    """

    def __init__(self, scan: VoxelReader, spacing_mm: Sequence[float]) -> None:
        check_spacing(spacing_mm)
        super().__init__(scan)
        self.grid = scan.grid.resampled(spacing_mm)
        self._scan = scan
        self._steps = _steps(scan.grid, spacing_mm)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `VoxelReader`."""
        shape = self.grid.shape
        within = [min(count, edge - first) for first, count, edge in zip(start, size, shape, strict=True)]
        return resample_region(self._scan.read_image, self._scan.grid.shape, self._steps, shape, start, within)


def is_at_spacing(grid: Grid, spacing_mm: Sequence[float]) -> bool:
    """Return whether voxels have a spacing along (D, H, W), as far as headers say."""
    # Headers store spacing as float32, so equal ones differ in the seventh digit.
    return np.allclose(_steps(grid, spacing_mm), 1, rtol=0, atol=1e-5)


def _steps(grid: Grid, spacing_mm: Sequence[float]) -> list[float]:
    return [new / old for new, old in zip(spacing_mm, grid.spacing_mm, strict=True)]
