"""Mirrored and turned crops, and which anchor of one is which of the other: a permutation, nothing is interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.detection.box_grid import BoxGrid, Shape
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Orientation:
    """A way to lay a crop: turned by quarters in its (H, W) plane, then mirrored."""

    flips: tuple[int, ...] = ()
    """Axes mirrored (0 = D, 1 = H, 2 = W)."""
    quarter_turns: int = 0
    """0 to 3, from H to W as `torch.rot90` counts."""

    def of_image(self, image: Tensor) -> Tensor:
        """Return an image (..., D, H, W) in this orientation."""
        return image.rot90(self.quarter_turns, (-2, -1)).flip([axis - 3 for axis in self.flips])

    def of_anchors(self, values: Tensor, anchors: BoxGrid, shapes: Sequence[Shape], strides: Sequence[Shape]) -> Tensor:
        """Bring values of the anchors of an image in this orientation into the order of the image as it was.

        Args:
            values: (A, K) of the image in this orientation.
            anchors: boxes on the cells.
            shapes: of the levels of the image as it was; a quarter turn needs them square in (H, W).
            strides: of the levels.

        Returns:
            (A, K), row `a` of which is of the anchor that lies where anchor `a` would be carried.
        """
        levels = []
        for level, of_level in enumerate(values.split(anchors.per_level(shapes))):
            cells = of_level.unflatten(0, (*shapes[level], anchors.per_cell))  # (D, H, W, boxes of a cell, K)
            if self.quarter_turns % 2:
                cells = cells.index_select(3, turned_boxes(anchors, level, strides[level]).to(cells.device))
            cells = cells.flip(self.flips).rot90(-self.quarter_turns, (1, 2))
            levels.append(cells.flatten(0, 3))
        return torch.cat(levels)


def orientations(mirror_axes: Sequence[int], turns: bool) -> list[Orientation]:
    """Return all ways to lay a crop that differ, as it is first: 8 mirrored along three axes, 16 with turns."""
    axes = [axis for axis in range(3) if axis in mirror_axes]
    sets = [tuple(axis for bit, axis in enumerate(axes) if number >> bit & 1) for number in range(2 ** len(axes))]
    found: dict[tuple[float, ...], Orientation] = {}
    corner = torch.arange(8.0).view(2, 2, 2)  # what lies where tells two ways apart
    for quarter_turns in range(4 if turns else 1):
        for flips in sets:
            one = Orientation(flips, quarter_turns)
            found.setdefault(tuple(one.of_image(corner).flatten().tolist()), one)
    return list(found.values())


def turned_boxes(anchors: BoxGrid, level: int, stride: Shape) -> Tensor:
    """Return which box of a cell each one becomes in a quarter turn, where H and W change places: (per_cell,) int64.

    Raises:
        UserError: a box has no partner, or cells are not square.
    """
    sizes = [tuple(map(float, size)) for size in anchors.sizes_on(level, stride)]
    partners = [[number for number, size in enumerate(sizes) if size == (d, w, h)] for d, h, w in sizes]
    # Of boxes that are there several times the first becomes the first.
    place = [sizes[:number].count(size) for number, size in enumerate(sizes)]
    if stride[1] != stride[2] or any(len(ones) <= nth for ones, nth in zip(partners, place, strict=True)):
        raise UserError(
            f"turns: the anchors {sizes} of level {level} with strides {stride} are others when H and W change places, "
            "so a turned crop has no anchor for each of them; set turns to false, or give every (d, h, w) its (d, w, h)"
        )
    return torch.tensor([ones[nth] for ones, nth in zip(partners, place, strict=True)])
