"""Masks of the objects found, from a detector with a mask head: each box by itself, in the tiles that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes import has_extent
from medpretrain3d.detection.base import Detector
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.inference.instances import network_running, tent, tiles_near
from medpretrain3d.inference.scan import TileReader
from medpretrain3d.inference.tiles import Triple, tile_starts
from medpretrain3d.precision.names import Precision

MASK_PROBABILITY = 0.5
"""Above it a voxel is of the object."""


def mask_head_of(detector: object) -> MaskHead | None:
    """Return the head of a detector that makes masks of boxes, None without one."""
    head = getattr(detector, "mask_head", None)
    return head if isinstance(head, MaskHead) else None


def box_instance_map(
    detector: Detector,
    tiles: TileReader,
    boxes: np.ndarray,
    patch: Triple,
    overlap: float,
    precision: Precision | None = None,
) -> np.ndarray:
    """Compute the instance segmentation of detected boxes: (D, H, W) uint16, `n + 1` for box `n`, 0 for none.

    A box is asked for in the tiles that hold all of it, and where none does in all that hold a part; what they say of
    a voxel is averaged, with a weight that falls towards a tile's border. Voxels of two objects go to the first. A box
    in which no voxel is likely enough, or that holds the middle of none, has none. In memory are the probabilities of
    all voxels in boxes.

    Args:
        detector: in evaluation mode, with a mask head.
        tiles: the volume.
        boxes: (N, 6) in voxels of the volume, best score first.
        patch: (D, H, W) of a tile, as in training.
        overlap: least fraction of a tile that it shares with its neighbour.
        precision: of the network; `None` is what suits its device.
    """
    head = mask_head_of(detector)
    assert head is not None
    regions = [_Region.of(box, tiles.shape) for box in boxes]
    is_whole = _whole_somewhere(boxes, tiles.shape, patch, overlap)
    weight = tent(patch)
    with network_running(detector, precision) as device:
        for start, tile in tiles_near(tiles, boxes, patch, overlap):
            low, high = np.array(start), np.minimum(np.array(start) + patch, tiles.shape)
            parts = np.concatenate([np.maximum(boxes[:, :3], low), np.minimum(boxes[:, 3:], high)], axis=1)
            asked = np.flatnonzero(has_extent(parts) & (~is_whole | (parts == boxes).all(axis=1)))
            if len(asked):
                in_tile = torch.from_numpy(parts[asked] - np.tile(low, 2)).float().to(device)
                likely = head.probabilities(detector.backbone(tile.to(device)), in_tile).cpu()  # (n, S, S, S)
                for row, grid in zip(asked, likely, strict=True):
                    regions[row].add(grid, parts[row], low, weight)
    instances = np.zeros(tiles.shape, dtype=np.uint16)
    for number, region in enumerate(regions, start=1):
        place = instances[region.place]
        place[region.is_object() & (place == 0)] = number
    return instances


def pasted(grid: Tensor, box: Sequence[float], first: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return what a grid over a box says at the middles of voxels, interpolated trilinearly; 0 outside of the box.

    Args:
        grid: (S, S, S) values in the middles of equal parts of the box.
        box: (6,) in voxels.
        first: the first voxel (d, h, w) that is asked for.
        shape: how many along each axis.
    """
    axes = [
        _interpolation(float(box[axis]), float(box[axis + 3]), first[axis], shape[axis], grid.shape[axis])
        for axis in range(3)
    ]
    return torch.einsum("dx, hy, wz, xyz -> dhw", *axes, grid)


def _interpolation(low: float, high: float, first: int, count: int, size: int) -> Tensor:
    """Return weights (count, size) of the parts of an interval at the middles of voxels; rows outside of it are 0."""
    middle = torch.arange(first, first + count) + 0.5
    place = ((middle - low) / max(high - low, 1e-6) * size - 0.5).clamp(0, size - 1)
    weights = (1 - (place[:, None] - torch.arange(size)).abs()).clamp(min=0)
    return weights * ((middle >= low) & (middle < high))[:, None]


@dataclass(frozen=True, eq=False)
class _Region:
    """The voxels of a box, and what tiles say of them."""

    first: np.ndarray
    sums: Tensor
    """(d, h, w) weighted probabilities."""
    weights: Tensor

    @classmethod
    def of(cls, box: np.ndarray, shape: Triple) -> _Region:
        first = np.floor(box[:3]).astype(int).clip(0, np.array(shape))
        end = np.ceil(box[3:]).astype(int).clip(first, np.array(shape))
        sums = torch.zeros(*(end - first).tolist())
        return cls(first, sums, torch.zeros_like(sums))

    @property
    def place(self) -> tuple[slice, ...]:
        """Where it lies in the volume."""
        return tuple(slice(low, low + size) for low, size in zip(self.first.tolist(), self.sums.shape, strict=True))

    def add(self, grid: Tensor, part: np.ndarray, start: np.ndarray, weight: Tensor) -> None:
        """Add the mask (S, S, S) of the part of the box in a tile that starts there, with weights of its voxels."""
        shape = self.sums.shape
        first = self.first - start
        low = np.maximum(first, 0)
        end = np.minimum(first + shape, weight.shape)
        here = tuple(slice(*ends) for ends in zip((low - first).tolist(), (end - first).tolist(), strict=True))
        of_tile = weight[tuple(slice(*ends) for ends in zip(low.tolist(), end.tolist(), strict=True))]
        local = part - np.tile(start, 2)
        self.sums[here] += of_tile * pasted(grid, local.tolist(), low.tolist(), of_tile.shape)
        self.weights[here] += of_tile

    def is_object(self) -> np.ndarray:
        """Return which voxels are likely of the object: (d, h, w) bool."""
        is_likely: np.ndarray = (self.sums > MASK_PROBABILITY * self.weights).numpy()
        return is_likely


def _whole_somewhere(boxes: np.ndarray, shape: Triple, patch: Triple, overlap: float) -> np.ndarray:
    """Return which boxes (N, 6) lie in a tile as a whole: (N,) bool."""
    starts = np.array(tile_starts(shape, patch, overlap))
    ends = np.minimum(starts + patch, shape)
    is_inside: np.ndarray = (boxes[:, None, :3] >= starts) & (boxes[:, None, 3:] <= ends)  # (N, T, 3)
    result: np.ndarray = np.any(np.all(is_inside, axis=2), axis=1)
    return result
