"""Boxes on the cells of a feature pyramid: the places that dense predictions are made at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.configurable import Configurable

Shape = tuple[int, int, int]


class BoxGrid(Configurable):
    """The same boxes centered on every cell of a level: cell `c` of stride `s` has its center at `(c + 0.5) s`.

    Subclasses set `num_levels` and `per_cell` and say how large the boxes of a level are.

    Example:
        >>> from medpretrain3d.detection import BoxGrid
        >>> class DoubleCells(BoxGrid):
        ...     num_levels, per_cell = 1, 1
        ...     def sizes_on(self, level, stride):
        ...         return [tuple(2.0 * step for step in stride)]
        >>> DoubleCells()(shapes=[(1, 1, 2)], strides=[(4, 4, 4)], device="cpu")
        tensor([[-2., -2., -2.,  6.,  6.,  6.],
                [-2., -2.,  2.,  6.,  6., 10.]])
    """

    num_levels: int
    per_cell: int
    """Boxes on each cell, the same number on all levels: the heads are shared over levels."""
    # A plain attribute, not a buffer: `module.half()` must not round voxels.
    _last: tuple[object, dict[torch.device, Tensor]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of; it makes its boxes anew, perhaps for another device."""
        return {name: value for name, value in self.__dict__.items() if name != "_last"}

    def sizes_on(self, level: int, stride: Shape) -> Sequence[tuple[float, float, float]]:
        """Return extents (d, h, w) in voxels of the `per_cell` boxes of a level, counted from the finest."""
        raise NotImplementedError("a BoxGrid subclass implements sizes_on")

    def __call__(self, shapes: Sequence[Shape], strides: Sequence[Shape], device: torch.device | str) -> Tensor:
        """Return all boxes (A, 6) float32, ordered by level, then cell (D, H, W), then box of the cell."""
        key = (tuple(shapes), tuple(strides))
        if self._last is None or self._last[0] != key:
            levels = [
                _on_cells(self.sizes_on(level, stride), shape, stride)
                for level, shape, stride in zip(range(self.num_levels), shapes, strides, strict=True)
            ]
            self._last = (key, {torch.device("cpu"): torch.cat(levels)})
        on_device, device = self._last[1], torch.device(device)
        if device not in on_device:
            on_device[device] = on_device[torch.device("cpu")].to(device, non_blocking=True)
        return on_device[device]

    def per_level(self, shapes: Sequence[Shape]) -> list[int]:
        """Return the number of boxes on each level."""
        return [d * h * w * self.per_cell for d, h, w in shapes]


def _on_cells(sizes: Sequence[tuple[float, float, float]], shape: Shape, stride: Shape) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * s for n, s in zip(shape, stride, strict=True)]
    centers_vox = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, 3)  # (cells, 1, 3)
    half = torch.tensor(sizes, dtype=torch.float32)[None] / 2  # (1, boxes of a cell, 3)
    return torch.cat([centers_vox - half, centers_vox + half], dim=-1).reshape(-1, 6)
