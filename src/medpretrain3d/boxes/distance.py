"""Suppression by the distance of centers, for what has no size; points, and boxes cut without moving their center."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes.arithmetic import Boxes, box_center, box_size, corners_of


def is_point(boxes: Boxes) -> Boxes:
    """Tell whether each box is a point, whose two corners are one: (..., 6) -> (...) bool."""
    result: Boxes = (boxes[..., 3:] == boxes[..., :3]).all(-1)
    return result


def suppress_by_distance(centers: Tensor, scores: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """Keep the best of all points within a distance of it, then the best of those left, and so on; on the CPU.

    Two points that are farther apart than the distance never suppress each other, whatever their scores.

    Args:
        centers: (N, 3).
        scores: (N,); of equal ones the first is the better.
        distance: in the unit of the centers.

    Returns:
        Indices of the points kept (K,) int64, best score first; and for every point (N,) int64 the place among them of
        the one that stands for it.

    Example:
        >>> import torch
        >>> from medpretrain3d.boxes import suppress_by_distance
        >>> centers = torch.tensor([[0.0, 0, 0], [0, 0, 4], [0, 0, 9]])
        >>> suppress_by_distance(centers, torch.tensor([0.5, 0.9, 0.7]), distance=4)
        (tensor([1, 2]), tensor([0, 0, 1]))
    """
    from scipy.spatial import cKDTree

    order = scores.argsort(descending=True, stable=True)
    places = centers.double()[order].numpy()
    owner = [-1] * len(places)
    kept: list[int] = []
    tree = cKDTree(places) if len(places) else None
    for row, place in enumerate(places):
        if owner[row] >= 0:
            continue
        assert tree is not None
        for near in tree.query_ball_point(place, distance):
            if owner[near] < 0:
                owner[near] = len(kept)
        kept.append(row)
    place_of = torch.empty_like(order)
    place_of[order] = torch.tensor(owner, dtype=torch.long)
    return order[torch.tensor(kept, dtype=torch.long)], place_of


def cut_about_center(boxes: Tensor, shape: tuple[int, int, int], margin: float = 0.5) -> Tensor:
    """Return boxes (N, 6) made smaller about their centers until they lie in the volume `(0, 0, 0)` .. `shape`.

    Cutting a box at a face would move its center. A center less than `margin` voxels from a face, or outside, is moved
    to `margin` voxels inside.
    """
    limit = torch.tensor(shape).to(boxes.device, boxes.dtype, non_blocking=True)
    center = torch.minimum(box_center(boxes).clamp(min=margin), limit - margin)
    half = torch.minimum(box_size(boxes) / 2, torch.minimum(center, limit - center))
    return corners_of(center, 2 * half)
