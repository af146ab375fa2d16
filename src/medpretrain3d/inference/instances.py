"""Masks of the objects found, from a detector that also segments: tiles blended, one component per box."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from medpretrain3d.inference.read_ahead import ReadAhead
from medpretrain3d.inference.scan import TileReader
from medpretrain3d.inference.sliding_window import BATCHES_AHEAD
from medpretrain3d.inference.tiles import Triple, tile_starts
from medpretrain3d.precision.choice import precision_of
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.grid import Grid

REVERSED = np.eye(4)[[2, 1, 0, 3]]
"""Takes an index (d, h, w) to (w, h, d), the order in which axes of the patient are counted."""
LEAST_WEIGHT = 0.1
"""Of a voxel at a tile's border, against 1 in its middle."""


@runtime_checkable
class Segmenter(Protocol):
    """A detector with a segmentation head."""

    def segment(self, image: Tensor) -> Tensor:
        """Return probability of background and of each class at every voxel: (B, K + 1, D, H, W)."""


def instance_map(
    detector: Segmenter,
    tiles: TileReader,
    boxes: np.ndarray,
    labels: np.ndarray,
    patch: Triple,
    overlap: float,
    precision: Precision | None = None,
) -> np.ndarray:
    """Compute the instance segmentation of detected boxes: (D, H, W) uint16, `n + 1` for box `n`, 0 for none.

    An object is the largest connected component of its class inside its box. Voxels of two boxes go to the first. A box
    in which the segmentation sees nothing of its class has no voxel.

    Args:
        detector: in evaluation mode.
        tiles: the volume.
        boxes: (N, 6) in voxels of the volume, best score first.
        labels: (N,) classes from 0.
        patch: (D, H, W) of a tile, as in training.
        overlap: least fraction of a tile that it shares with its neighbour.
        precision: of the network; `None` is what suits its device.
    """
    import cc3d

    classes, num_classes = segment_volume(detector, tiles, boxes, patch, overlap, precision)
    instances = np.zeros(tiles.shape, dtype=np.uint16)
    for number, (box, label) in enumerate(zip(boxes, labels, strict=True), start=1):
        low, high = np.floor(box[:3]).astype(int).clip(min=0), np.ceil(box[3:]).astype(int)
        region = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        wanted = min(label + 1, num_classes)  # a segmentation of foreground alone has one class
        is_object = (classes[region] == wanted) & (instances[region] == 0)
        if is_object.any():
            instances[region][cc3d.largest_k(is_object, k=1, connectivity=26) > 0] = number
    return instances


def segment_volume(
    detector: Segmenter,
    tiles: TileReader,
    boxes: np.ndarray,
    patch: Triple,
    overlap: float,
    precision: Precision | None = None,
) -> tuple[np.ndarray, int]:
    """The likeliest class of every voxel near the boxes: (D, H, W) uint8, `label + 1`, 0 for background; and how many.

    Only tiles that meet a box are run. Their probabilities are summed with a weight that falls towards the tile's
    border. In memory are the sums over one tile's depth; slices that no later tile reaches are settled.

    Args:
        detector: in evaluation mode.
        tiles: the volume.
        boxes: (N, 6) in voxels of the volume.
        patch: (D, H, W) of a tile.
        overlap: least fraction of a tile that it shares with its neighbour.
        precision: of the network; `None` is what suits its device.
    """
    weight = tent(patch)
    blend = _Blend(tiles.shape, patch[0])
    with network_running(detector, precision) as device:
        for start, tile in tiles_near(tiles, boxes, patch, overlap):
            probability = detector.segment(tile.to(device))[0].float().cpu()  # (K + 1, *patch)
            blend.add(start, probability * weight)
    return blend.finish(), max(len(blend.sums) - 1, 1)


@contextmanager
def network_running(detector: object, precision: Precision | None) -> Iterator[torch.device]:
    """Run a detector without gradients and in a precision, `None` for what suits its device; gives the device."""
    weights = detector.parameters() if isinstance(detector, nn.Module) else ()
    device = next((weight.device for weight in weights), torch.device("cpu"))
    with torch.inference_mode(), autocast(device, precision_of(precision, device)):
        yield device


def tiles_near(tiles: TileReader, boxes: np.ndarray, patch: Triple, overlap: float) -> Iterator[tuple[Triple, Tensor]]:
    """Yield first voxel and content (1, C, *patch) of the tiles that meet a box and are not empty, front to back."""
    starts = [start for start in tile_starts(tiles.shape, patch, overlap) if _meets(boxes, start, patch)]
    read = ((start, tiles.read(start, patch)) for start in starts)
    with closing(ReadAhead(read, BATCHES_AHEAD)) as ahead:
        for start, tile in ahead:
            if tile is not None:
                yield start, tile[None]


class _Blend:
    """Weighted probabilities of tiles that come front to back: slices that no later tile reaches are decided."""

    def __init__(self, shape: Triple, depth: int) -> None:
        self.classes = np.zeros(shape, dtype=np.uint8)
        self.depth = depth
        self.first = 0
        self.sums = torch.zeros(0)
        """(K + 1, depth, H, W) of the slices from `first` on."""

    def add(self, start: Triple, weighted: Tensor) -> None:
        """Add a tile (K + 1, d, h, w), which may reach over the volume's end."""
        if not len(self.sums):
            self.sums = torch.zeros(len(weighted), self.depth, *self.classes.shape[1:])
        self._decide(start[0])
        h, w = (slice(first, first + size) for first, size in zip(start[1:], weighted.shape[2:], strict=True))
        place = self.sums[:, :, h, w]
        place += weighted[:, :, : place.shape[2], : place.shape[3]]

    def finish(self) -> np.ndarray:
        """Return the likeliest class of every voxel (D, H, W) uint8."""
        if len(self.sums):
            self._decide(self.first + self.depth)
        return self.classes

    def _decide(self, until: int) -> None:
        count = min(until - self.first, self.depth)
        decided = self.classes[self.first : self.first + count]
        decided[:] = self.sums[:, : len(decided)].argmax(dim=0).numpy()
        self.sums = torch.cat([self.sums[:, count:], torch.zeros_like(self.sums[:, :count])], dim=1)
        self.first = until


def to_file_order(instances: np.ndarray, grid: Grid, source_grid: Grid) -> np.ndarray:
    """Return a map (D, H, W) on `grid` as the voxels (i, j, k) of the file: each takes the value at its centre.

    Args:
        instances: on `grid`.
        grid: resampled and reoriented from the file's, so its axes are parallel to the file's.
        source_grid: of the file, in its own array order.
    """
    # By the grid itself and not by the patient: at 45 degrees an earlier version may have oriented a store otherwise.
    in_grid = Grid(source_grid.shape, REVERSED @ np.linalg.inv(grid.affine_lps) @ source_grid.affine_lps)
    canonical, order, mirrored = in_grid.canonical()
    index_from_index = REVERSED @ canonical.affine_lps
    for axis, size in enumerate(canonical.shape):
        center = index_from_index[axis, axis] * np.arange(size) + index_from_index[axis, 3]
        index = np.floor(center + 0.5).astype(int)  # rint would round ties now up, now down
        is_inside = (index >= 0) & (index < instances.shape[axis])
        instances = instances.take(index.clip(0, instances.shape[axis] - 1), axis=axis)
        instances[(slice(None),) * axis + (~is_inside,)] = 0
    return np.flip(instances, mirrored).transpose(np.argsort(order))


def tent(patch: Triple) -> Tensor:
    """Weights of a tile's voxels (D, H, W): 1 in the middle, falling linearly to `LEAST_WEIGHT` at the nearest face."""
    axes = [1 - (2 * (torch.arange(edge) + 0.5) / edge - 1).abs() for edge in patch]
    d, h, w = torch.meshgrid(*axes, indexing="ij")
    return LEAST_WEIGHT + (1 - LEAST_WEIGHT) * torch.minimum(torch.minimum(d, h), w)


def _meets(boxes: np.ndarray, start: Triple, patch: Triple) -> bool:
    low, high = np.array(start), np.array(start) + patch
    return bool(((boxes[:, :3] < high) & (boxes[:, 3:] > low)).all(axis=1).any())
