"""RoIAlign in 3D: the features of a box on a small grid, read between cells and never rounded (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align(features: Tensor, boxes: Sequence[Tensor], stride: Sequence[int], size: int, samples: int = 2) -> Tensor:
    """Return the features of boxes on a grid of `size` cells an axis: (N, C, size, size, size) float32.

    A cell is the mean of `samples` points an axis, each interpolated trilinearly, as in torchvision's with `aligned`.
    A point outside of the map has the value of its border. Boxes of all images follow each other.

    Args:
        features: (B, C, d, h, w).
        boxes: of each image (n, 6) in voxels of the image, on the device of the features; at least one in all.
        stride: of the map in voxels along (D, H, W).
        size: cells of the grid along each axis.
        samples: points of a cell along each axis.
    """
    count = size * samples
    num_cells = torch.tensor(features.shape[2:]).to(features.device, non_blocking=True)
    extents = torch.tensor(stride).to(features.device, non_blocking=True) * num_cells  # in voxels
    pooled = []
    for of_image, one in zip(features.float(), boxes, strict=True):
        if not len(one):
            continue
        places = 2 * grid_points(one.float(), count) / extents[:, None] - 1  # (n, 3, count), -1 to 1 over the map
        d, h, w = places.unbind(dim=1)
        shape = (len(one), count, count, count)
        # The last axis of a grid is in the order (x, y, z).
        grid = torch.stack(
            [w[:, None, None].expand(shape), h[:, None, :, None].expand(shape), d[:, :, None, None].expand(shape)], -1
        )
        read = F.grid_sample(of_image[None], grid.flatten(0, 1)[None], padding_mode="border", align_corners=False)[0]
        pooled.append(F.avg_pool3d(read.unflatten(1, (len(one), count)).transpose(0, 1), samples))
    return torch.cat(pooled)


def grid_points(boxes: Tensor, count: int) -> Tensor:
    """Return the middles of `count` equal parts of each box along each axis: (N, 6) -> (N, 3, count)."""
    parts = (torch.arange(count, device=boxes.device) + 0.5) / count
    low, high = boxes[:, :3, None], boxes[:, 3:, None]
    return low + parts * (high - low)
