"""Points on the cells of a feature pyramid, for detectors without anchors."""

from __future__ import annotations

from collections.abc import Sequence

from medpretrain3d.detection.box_grid import BoxGrid, Shape
from medpretrain3d.values import Layers


class PointGrid(BoxGrid):
    """One point per cell, its center; what goes with it is the cell itself, whose extents are the stride.

    Args:
        num_levels: detection levels.

    Example:
        >>> from medpretrain3d.boxes import box_center, box_size
        >>> from medpretrain3d.detection import PointGrid
        >>> cells = PointGrid(num_levels=1)(shapes=[(1, 1, 2)], strides=[(2, 4, 4)], device="cpu")
        >>> box_center(cells)
        tensor([[1., 2., 2.],
                [1., 2., 6.]])
        >>> box_size(cells)[0]
        tensor([2., 4., 4.])
    """

    per_cell = 1

    def __init__(self, num_levels: Layers) -> None:
        self.num_levels = num_levels

    def sizes_on(self, level: int, stride: Shape) -> Sequence[tuple[float, float, float]]:
        """Return the stride, once."""
        return [stride]
