"""Scans in flight: while the network works on one, the next is opened, resampled and its first tiles are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.inference.bundle import Bundle
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.read_ahead import ReadAhead
from medpretrain3d.inference.region import Near
from medpretrain3d.inference.scan import tiles_of_members
from medpretrain3d.inference.sliding_window import Progress, SlidingWindow, SlidingWindows
from medpretrain3d.inference.voxel_reader import VoxelReader
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.grid import Grid

S = TypeVar("S")
T = TypeVar("T")
SCANS_AHEAD = 1
"""Started while another is predicted: two scans are in memory, and the batches of tiles that were read of each."""


class StartedScan:
    """A scan whose first tiles are being read.

    Args:
        scan: with the channels of the bundles.
        bundles: that look at it.
        configs: inference settings of each.
        batch_size: tiles per forward pass.
        precision: of the networks.
        region: where they look, with what is near; None is everywhere.

    Raises:
        UserError: the region lies outside of the scan.
    """

    def __init__(
        self,
        scan: VoxelReader,
        bundles: Sequence[Bundle],
        configs: Sequence[InferenceConfig],
        batch_size: int | None,
        precision: Precision,
        region: Near | None = None,
    ) -> None:
        self.scan = scan
        self.region = region
        self.tiles = tiles_of_members(scan, [bundle.preprocessing for bundle in bundles])
        self._windows = SlidingWindows(
            [
                SlidingWindow(
                    bundle.detector,
                    tiles,
                    bundle.preprocessing.patch,
                    config,
                    batch_size,
                    precision,
                    None if region is None else region.crop_vox(tiles.grid),
                )
                for bundle, config, tiles in zip(bundles, configs, self.tiles, strict=True)
            ]
        )

    def close(self) -> None:
        """End reading."""
        self._windows.close()

    def detect(self, progress: Progress | None = None) -> RawDetections:
        """Return what all members see, not merged, in voxels of the scan; once."""
        parts = self._windows.detect(progress)
        for seen, tiles in zip(parts, self.tiles, strict=True):
            seen.detections.boxes = _mapped(seen.detections.boxes, tiles.grid, self.scan.grid)
            seen.views = _mapped(seen.views, tiles.grid, self.scan.grid)
        return RawDetections.cat(parts)


def start_ahead(scans: Iterable[S], start: Callable[[S], T]) -> ReadAhead[tuple[S, T]]:
    """Start scans in a thread, `SCANS_AHEAD` of the caller: each of them with what `start` made of it, in their order.

    Close it (`contextlib.closing`): what was started and not asked for is closed too.

    Args:
        scans: inputs of any kind.
        start: returns a `StartedScan`, or something else in place of one.
    """
    return ReadAhead(((scan, start(scan)) for scan in scans), SCANS_AHEAD, discard=lambda one: _close(one[1]))


def _close(started: object) -> None:
    if isinstance(started, StartedScan):
        started.close()


def _mapped(boxes: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Return boxes (N, 6) of one grid in voxels of another, float32."""
    if grid == to:
        return boxes
    return torch.from_numpy(grid.map_boxes(boxes.double().numpy(), to).astype(np.float32))
