"""Center, size and volume of boxes, torch tensors and numpy arrays alike: see `convention` for what a box is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", Tensor, np.ndarray)


def box_center(boxes: Boxes) -> Boxes:
    """Compute the center of each box: (..., 6) -> (..., 3), in the precision of the boxes."""
    result: Boxes = (boxes[..., :3] + boxes[..., 3:]) / 2
    return result


def box_size(boxes: Boxes) -> Boxes:
    """Compute the edge lengths of each box: (..., 6) -> (..., 3); negative where a corner pair is swapped."""
    result: Boxes = boxes[..., 3:] - boxes[..., :3]
    return result


def has_extent(boxes: Boxes) -> Boxes:
    """Tell whether each box is longer than 0 along every axis: (..., 6) -> (...) bool; not where a corner is NaN."""
    is_longer = boxes[..., 3:] > boxes[..., :3]
    return is_longer[..., 0] & is_longer[..., 1] & is_longer[..., 2]


def box_volume(boxes: Tensor) -> Tensor:
    """Compute the volume of each box (N,); 0 where a corner pair is swapped. float32, or float64 for float64 boxes."""
    return box_size(at_least_float32(boxes)).clamp(min=0).prod(dim=-1)


def clip_boxes(boxes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return boxes (N, 6) cut to the volume `(0, 0, 0)` .. `shape`."""
    limit = torch.tensor([*shape, *shape]).to(boxes.device, boxes.dtype, non_blocking=True)
    return torch.minimum(boxes.clamp(min=0), limit)


def corners_of(center: Tensor, size: Tensor) -> Tensor:
    """Return boxes (..., 6) of centers (..., 3) and sizes (..., 3)."""
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def at_least_float32(boxes: Tensor) -> Tensor:
    """Return the boxes in float32, or as they are where they are float64."""
    # Boxes stay fp32 under autocast: bf16 has 8 significant bits, so 160.5 becomes 160 and 301 becomes 300.
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def mirror_boxes(boxes: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Return boxes (N, 6) as they lie in the image of `shape` (D, H, W) mirrored along `axes`; twice gives them back.

    Half-open edges swap without any "1": an edge at `e` of an axis of `size` voxels goes to `size - e`.
    """
    mirrored = boxes.clone()
    for axis in axes:
        mirrored[:, axis] = shape[axis] - boxes[:, axis + 3]
        mirrored[:, axis + 3] = shape[axis] - boxes[:, axis]
    return mirrored
