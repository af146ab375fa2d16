"""Boxes in parts of the image, as a transformer predicts them: (centre, extent) in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes import box_center, box_size, corners_of
from medpretrain3d.detection.box_grid import Shape


def to_unit(boxes: Tensor, shape: Shape) -> Tensor:
    """Return corner boxes (..., 6) in voxels -> unit boxes: (centre, extent) in parts of the image, float32."""
    boxes = boxes.float() / _sides(shape, boxes.device)
    return torch.cat([box_center(boxes), box_size(boxes)], dim=-1)


def from_unit(unit: Tensor, shape: Shape) -> Tensor:
    """Return unit boxes (..., 6) -> corner boxes in voxels, float32; `from_unit(unit, (1, 1, 1))` stays in parts."""
    center, extent = unit.float().split(3, dim=-1)
    corners = corners_of(center, extent)
    return corners if shape == (1, 1, 1) else corners * _sides(shape, unit.device)


def _sides(shape: Shape, device: torch.device) -> Tensor:
    return torch.tensor([*shape, *shape], dtype=torch.float32).to(device, non_blocking=True)
