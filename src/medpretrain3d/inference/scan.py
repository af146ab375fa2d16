"""A scan as the network sees it: read tile by tile, resampled and windowed on the way, in float never whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.inference.resampled_scan import ResampledScan, is_at_spacing
from medpretrain3d.inference.tiles import Triple
from medpretrain3d.inference.voxel_reader import HeldScan, VoxelReader
from medpretrain3d.store.case import AIR_HU
from medpretrain3d.store.grid import Spacing
from medpretrain3d.store.preprocessing import Preprocessing

EMPTY_HU = -900.0
"""A block of voxels with a mean up to this is air: lung lies above it, and noise of 80 HU moves a mean by 10 HU."""
AIR_BLOCK_VOX = 4
"""Edge of the blocks. One voxel of soft tissue in eight lifts a block out of air."""


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
        resampled: makes the reader of a scan at another spacing: `ResampledScan` for tiles from the first slice to the
            last, `ResampledRegions` for many scans of which a region is read now and then.

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

    def __init__(
        self,
        scan: VoxelReader,
        preprocessing: Preprocessing,
        resampled: Callable[[VoxelReader, Sequence[float]], VoxelReader] = ResampledScan,
    ) -> None:
        spacing_mm = preprocessing.spacing_mm
        if spacing_mm is None or is_at_spacing(scan.grid, spacing_mm):
            self.scan = scan
        else:
            self.scan = resampled(scan, spacing_mm)
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


def tiles_of_members(scan: VoxelReader, members: Sequence[Preprocessing]) -> list[ScanTiles]:
    """Return a scan as each member of an ensemble sees it.

    If any of them resamples it, its voxels are read once and are in memory once.

    Args:
        scan: in the unit of the training images.
        members: preprocessing of the training images of each.
    """
    if any(one.spacing_mm is not None and not is_at_spacing(scan.grid, one.spacing_mm) for one in members):
        scan = HeldScan.of(scan)
    return [ScanTiles(scan, one) for one in members]


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
