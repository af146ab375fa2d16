"""Where voxels of a scan come from: read region by region, or all of them held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.statistics import ChannelStatistics
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import Volume


class VoxelReader(Protocol):
    """Voxels that are read region by region: a `Volume` in memory is a scan, and so is a `Case` of a store."""

    @property
    def grid(self) -> Grid:
        """Grid of the voxels."""

    @property
    def source_grid(self) -> Grid:
        """Grid of the file, in its own array order."""

    @property
    def num_channels(self) -> int:
        """Number of channels of the voxels."""

    @property
    def unit(self) -> Unit:
        """Intensity unit of the voxels."""

    @property
    def pad_values(self) -> tuple[int, ...]:
        """Padding value per channel, which surrounds the volume; -1024 for HU."""

    @property
    def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Intensity statistics of each channel of the whole volume, which a normalization may be fitted to."""

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """The region (C, d, h, w) int16 of `size` voxels from `start` on; what lies behind the end may be missing."""


class SameScan:
    """What a reader has of the scan that it reads: all but the voxels.

    Args:
        scan: the scan.
    """

    def __init__(self, scan: VoxelReader) -> None:
        self.grid = scan.grid
        self.source_grid = scan.source_grid
        self.num_channels = scan.num_channels
        self.unit = scan.unit
        self.pad_values = scan.pad_values
        self.statistics = scan.statistics


class HeldScan(SameScan):
    """A scan of which all voxels are in memory, as `array` (C, D, H, W) int16.

    Args:
        scan: whose voxels are read.
    """

    def __init__(self, scan: VoxelReader) -> None:
        super().__init__(scan)
        self.array = scan.read_image((0, 0, 0), scan.grid.shape)

    @staticmethod
    def of(scan: VoxelReader) -> Volume | HeldScan:
        """Read all voxels of a scan, unless they are in memory."""
        return scan if isinstance(scan, Volume | HeldScan) else HeldScan(scan)

    def read_image(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """See `VoxelReader`; a view."""
        d, h, w = (slice(first, first + count) for first, count in zip(start, size, strict=True))
        return self.array[:, d, h, w]
