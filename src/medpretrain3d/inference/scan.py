"""A scan as the network sees it: read tile by tile, resampled and windowed on the way, in float never whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.inference.tiles import Triple
from medpretrain3d.store.case import AIR_HU
from medpretrain3d.store.grid import Grid, Spacing
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.resample import resample_linear
from medpretrain3d.store.statistics import ChannelStatistics
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import Volume, check_spacing

EMPTY_HU = -900.0
"""A block of voxels with a mean up to this is air: lung lies above it, and noise of 80 HU moves a mean by 10 HU."""
AIR_BLOCK_VOX = 4
"""Edge of the blocks. One voxel of soft tissue in eight lifts a block out of air."""


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


class TileReader(Protocol):
    """Interface through which `detect_volume` reads a volume tile by tile."""

    @property
    def shape(self) -> Triple:
        """Voxels (D, H, W)."""

    @property
    def spacing_mm(self) -> Spacing:
        """Along (D, H, W)."""

    def read(self, start: Triple, patch: Triple) -> Tensor | None:
        """A tile (C, *patch) float32 as the network sees it, padded behind the volume's end; None if it is empty."""


class TensorTiles:
    """Tiles of an image that is in memory and normalised. A tile is empty if every channel is constant.

    Args:
        image: (C, D, H, W).
        pad_value: fills a tile behind the end of the image.
    """

    spacing_mm: Spacing = (1.0, 1.0, 1.0)
    """Not known to a tensor: millimetres are voxels here."""

    def __init__(self, image: Tensor, pad_value: float) -> None:
        self.image = image
        self.pad_value = pad_value
        self.shape: Triple = (image.shape[1], image.shape[2], image.shape[3])

    def read(self, start: Triple, patch: Triple) -> Tensor | None:
        """See `TileReader`."""
        d, h, w = (slice(first, first + size) for first, size in zip(start, patch, strict=True))
        tile = self.image[:, d, h, w]
        return None if is_constant(tile) else _padded(tile, patch, self.pad_value)


class ScanTiles:
    """Tiles of a scan, preprocessed as in training. Beside the scan's own int16 only a few slices are in memory.

    A tile is empty, and not looked at, if every channel is constant once windowed, or, in HU, if it is air (`is_air`).

    Args:
        scan: in the unit of the training images.
        preprocessing: of the training images.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.inference import ScanTiles
        >>> from medpretrain3d.store import Grid, Preprocessing, Volume
        >>> grid = Grid((16, 16, 16), np.diag([1.0, 1, 1, 1]))
        >>> scan = Volume(np.arange(4096, dtype=np.int16).reshape(1, 16, 16, 16), grid, grid)
        >>> tiles = ScanTiles(scan, Preprocessing(patch=(8, 8, 8)))
        >>> tiles.shape, tiles.read(start=(0, 8, 8), patch=(8, 8, 8)).shape
        ((16, 16, 16), torch.Size([1, 8, 8, 8]))
    """

    def __init__(self, scan: VoxelReader, preprocessing: Preprocessing) -> None:
        self.scan = _at_spacing(scan, preprocessing.spacing_mm)
        self.scan_grid = scan.grid
        self.window = preprocessing.window.of_unit(preprocessing.unit).fitted(scan.statistics)
        self.pad_values = scan.pad_values
        self.is_hu = set(scan.pad_values) == {AIR_HU}
        self.grid = self.scan.grid
        self.shape = self.grid.shape
        self.spacing_mm = self.grid.spacing_mm

    def map_boxes(self, boxes_vox: np.ndarray) -> np.ndarray:
        """Return boxes (N, 6) in voxels of the scan in voxels of the tiles, whose spacing may be another."""
        return self.scan_grid.map_boxes(boxes_vox, self.grid)

    def read(self, start: Triple, patch: Triple) -> Tensor | None:
        """See `TileReader`."""
        size = [min(edge, end - first) for first, edge, end in zip(start, patch, self.shape, strict=True)]
        region = self.scan.read_image(start, size)
        if self.is_hu and is_air(region):
            return None
        tile = torch.from_numpy(self.window(_filled(region, patch, self.pad_values)))
        d, h, w = size
        return None if is_constant(tile[:, :d, :h, :w]) else tile


class ResampledScan:
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
        self.grid = scan.grid.resampled(spacing_mm)
        self.source_grid = scan.source_grid
        self.num_channels = scan.num_channels
        self.unit = scan.unit
        self.pad_values = scan.pad_values
        self.statistics = scan.statistics
        self._array = scan.array if isinstance(scan, Volume) else scan.read_image((0, 0, 0), scan.grid.shape)
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


def is_air(region: np.ndarray) -> bool:
    """Return whether no block of 4 x 4 x 4 voxels of (C, d, h, w), in any channel, has a mean above -900 HU.

    Means of blocks and not single voxels: noise of a few dozen HU lifts single voxels of air above -900 HU in every
    tile, while a lesion of a few voxels lifts the mean of its block.
    """
    if any(channel.mean() > EMPTY_HU for channel in region):  # then some block lies above it too
        return False
    blocks = [min(AIR_BLOCK_VOX, size) for size in region.shape[1:]]
    means = F.avg_pool3d(torch.from_numpy(region.astype(np.float32)), blocks, ceil_mode=True)
    return bool((means <= EMPTY_HU).all())


def is_constant(tile: Tensor) -> bool:
    """Return whether every channel of (C, d, h, w) has one value throughout."""
    return bool((tile.amin(dim=(1, 2, 3)) == tile.amax(dim=(1, 2, 3))).all())


def _at_spacing(scan: VoxelReader, spacing_mm: Sequence[float] | None) -> VoxelReader:
    # Headers store spacing as float32, so equal ones differ in the seventh digit.
    if spacing_mm is None or np.allclose(_steps(scan.grid, spacing_mm), 1, rtol=0, atol=1e-5):
        return scan
    return ResampledScan(scan, spacing_mm)


def _steps(grid: Grid, spacing_mm: Sequence[float]) -> list[float]:
    return [new / old for new, old in zip(spacing_mm, grid.spacing_mm, strict=True)]


def _filled(region: np.ndarray, patch: Triple, values: Sequence[int]) -> np.ndarray:
    """Return a region (C, d, h, w) with what surrounds the volume behind its end: (C, *patch)."""
    if region.shape[1:] == patch:
        return region
    tile = np.empty((len(region), *patch), region.dtype)
    tile[:] = np.array(values, region.dtype)[:, None, None, None]
    d, h, w = region.shape[1:]
    tile[:, :d, :h, :w] = region
    return tile


def _padded(tile: Tensor, patch: Triple, value: float) -> Tensor:
    missing = [size - have for size, have in zip(patch, tile.shape[1:], strict=True)]
    return F.pad(tile, [0, missing[2], 0, missing[1], 0, missing[0]], value=value)  # F.pad: last axis first
