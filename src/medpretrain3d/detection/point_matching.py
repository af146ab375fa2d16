"""Matchers that assign ground-truth objects to points, for anchor-free detectors.

They are called like the matchers of anchors, with one "anchor" per cell: the cell itself, whose centre is the point and
whose extents are the stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medpretrain3d.boxes import box_center, box_size, box_volume
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.matching import Matcher, nearest_cells
from medpretrain3d.values import Layers, Positive, Whole


class CenterSampling(Matcher):
    """The points around an object's centre, on the level of its size (Tian et al., FCOS, 2019 and 2022).

    A point is positive if it lies in the object, within `radius` cells of its centre along each axis, and the farthest
    side of the object is within the level's range. The ranges follow each other: up to `max_cells` on the finest level,
    then `max_cells / 2` to `max_cells`, and no limit on the coarsest. A point in several objects goes to the smallest.
    An object left without a point, most often one that lies between them, gets the nearest free one of its level, if
    any is free.

    Args:
        radius: in cells.
        max_cells: farthest side that a level looks for, in cells; 8 is the published number.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import AnchorGrid, CenterSampling
        >>> grid = AnchorGrid([[(4, 4, 4)]])
        >>> shapes = [(1, 1, 4)]
        >>> anchors = grid(shapes, strides=[(4, 4, 4)], device="cpu")
        >>> targets = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
        >>> CenterSampling(radius=1.5)(targets, anchors, grid.per_level(shapes), grid.per_cell)
        tensor([ 0, -1, -1, -1])
    """

    def __init__(self, radius: Positive = 1.5, max_cells: Positive = 8.0) -> None:
        self.radius = radius
        self.max_cells = max_cells

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Return index of the matched target per point: (A,) int64, or `BACKGROUND`."""
        matched = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        point, stride = box_center(anchors), box_size(anchors)
        least, most = self._ranges(anchors_per_level, anchors)
        for index in _large_first(targets):
            low, high = targets[index].float().split(3)
            farthest = (torch.maximum(point - low, high - point) / stride).amax(dim=1)
            positive = ((point > low) & (point < high)).all(dim=1) & (farthest > least) & (farthest <= most)
            positive &= ((point - (low + high) / 2).abs() < self.radius * stride).all(dim=1)
            matched[positive] = index
        levels = object_levels(targets, anchors, anchors_per_level, self.max_cells)
        served = torch.zeros(len(targets) + 1, dtype=torch.bool, device=anchors.device)
        served[matched] = True  # background marks the spare last place
        for index in torch.nonzero(~served[:-1])[:, 0].tolist():
            start, end = levels[index]
            center = box_center(targets[index, None]).float()
            near = start + nearest_cells(center, anchors[start:end], 27)[0]
            free = near[matched[near] == BACKGROUND]
            if not len(free):  # a crowd holds them all
                free = start + torch.nonzero(matched[start:end] == BACKGROUND)[:, 0]
                free = free[nearest_cells(center, anchors[free], 1)[0]] if len(free) else free
            matched[free[:1]] = index
        return matched

    def _ranges(self, anchors_per_level: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Return least and largest distance of the farthest side that each point may have, in cells: (A,), (A,)."""
        last = len(anchors_per_level) - 1
        bounds = [
            (0.0 if level == 0 else self.max_cells / 2, torch.inf if level == last else self.max_cells)
            for level in range(len(anchors_per_level))
        ]
        counts = torch.tensor(list(anchors_per_level), device=like.device)
        least, most = like.new_tensor(bounds).repeat_interleave(counts, dim=0).unbind(dim=1)
        return least, most


class NearestPoints(Matcher):
    """The few points nearest to an object's centre, whatever its shape (Song et al., CPM-Net, 2020, sec. 2.2).

    Around them more are ignored: they see the object as well. Each object is looked for on one level. A point near
    several objects goes to the smallest; an object left without a point, as one of two in a cell, gets the nearest that
    is not another object's only one, of the 27 nearest at least.

    Args:
        num_points: positive points per object.
        ignore_ratio: ignored points per positive one.
        max_cells: an object belongs to the finest level on which half its longest side is no longer than this.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import AnchorGrid, NearestPoints
        >>> grid = AnchorGrid([[(4, 4, 4)]])
        >>> shapes = [(1, 1, 4)]
        >>> anchors = grid(shapes, strides=[(4, 4, 4)], device="cpu")
        >>> targets = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
        >>> NearestPoints(num_points=1, ignore_ratio=1)(targets, anchors, grid.per_level(shapes), grid.per_cell)
        tensor([ 0, -2, -1, -1])
    """

    def __init__(self, num_points: Layers = 7, ignore_ratio: Whole = 26, max_cells: Positive = 8.0) -> None:
        self.num_points = num_points
        self.ignore_ratio = ignore_ratio
        self.max_cells = max_cells

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Return index of the matched target per point: (A,) int64, `BACKGROUND` or `IGNORED`."""
        matched = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        levels = object_levels(targets, anchors, anchors_per_level, self.max_cells)
        near = {}
        for index in _large_first(targets):
            start, end = levels[index]
            count = self.num_points * (1 + self.ignore_ratio)
            center = box_center(targets[index, None]).float()
            near[index] = start + nearest_cells(center, anchors[start:end], max(count, 27))[0]
            matched[near[index][:count]] = IGNORED
        for index, points in near.items():
            matched[points[: self.num_points]] = index
        won = matched[matched >= 0].bincount(minlength=len(targets)).tolist()
        for index in (index for index in near if not won[index]):
            owners = matched[near[index]].tolist()
            for point, owner in zip(near[index].tolist(), owners, strict=True):
                if owner < 0 or won[owner] > 1:
                    won[index] = 1
                    if owner >= 0:
                        won[owner] -= 1
                    matched[point] = index
                    break
        return matched


def object_levels(
    targets: Tensor, cells: Tensor, cells_per_level: Sequence[int], max_cells: float
) -> list[tuple[int, int]]:
    """First and last + 1 of the cells of the finest level on which half an object's extent is at most `max_cells`."""
    ends = torch.tensor([0, *cells_per_level]).cumsum(0).tolist()
    strides = box_size(cells[ends[:-1]])  # (L, 3)
    half = box_size(targets).float() / 2
    fits = (half[:, None] / strides <= max_cells).all(dim=2)  # (N, L)
    fits[:, -1] = True
    return [(ends[level], ends[level + 1]) for level in fits.int().argmax(dim=1).tolist()]


def _large_first(targets: Tensor) -> list[int]:
    order: list[int] = box_volume(targets).argsort(descending=True, stable=True).tolist()
    return order
