"""Anchor boxes on the cells of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from medpretrain3d.detection.box_grid import BoxGrid, Shape
from medpretrain3d.errors import UserError
from medpretrain3d.values import Finite


class AnchorGrid(BoxGrid):
    """The same anchors centred on every cell of a level, of chosen sizes.

    Args:
        sizes: for each detection level, finest first, the anchors' extents (d, h, w) in voxels. Every level has the
            same number of anchors, because the heads are shared over levels.

    Raises:
        UserError: no level, levels with different numbers of anchors, or an extent that is not positive.

    Example:
        >>> from medpretrain3d.detection import AnchorGrid
        >>> grid = AnchorGrid([[(4, 4, 4)], [(8, 8, 8)]])
        >>> anchors = grid(shapes=[(4, 4, 4), (2, 2, 2)], strides=[(4, 4, 4), (8, 8, 8)], device="cpu")
        >>> anchors.shape  # 4^3 + 2^3 cells
        torch.Size([72, 6])
        >>> anchors[0]
        tensor([0., 0., 0., 4., 4., 4.])
    """

    def __init__(self, sizes: Sequence[Sequence[tuple[Finite, Finite, Finite]]]) -> None:
        counts = [len(level) for level in sizes]
        if not counts or len(set(counts)) != 1 or counts[0] == 0:
            raise UserError(
                f"anchor sizes: got {counts} anchors per level, wanted at least one level and the same number on all "
                "(the heads are shared over levels)"
            )
        if any(len(size) != 3 or min(size) <= 0 for level in sizes for size in level):
            raise UserError("anchor sizes: each must be three positive extents (d, h, w) in voxels")
        self.sizes = tuple(tuple((float(d), float(h), float(w)) for d, h, w in level) for level in sizes)
        self.num_levels = len(self.sizes)
        self.per_cell = counts[0]

    @classmethod
    def combinations(cls, sizes_per_axis: Sequence[Sequence[float]], strides: Sequence[Shape]) -> AnchorGrid:
        """Every combination of the extents along D, H and W, as in nnDetection: 3 x 3 x 3 give 27 anchors per cell.

        Args:
            sizes_per_axis: extents in voxels along (D, H, W) on the finest detection level.
            strides: of the detection levels, finest first; extents grow with the stride.
        """
        finest = strides[0]
        sizes = [
            [
                (d * stride[0] / finest[0], h * stride[1] / finest[1], w * stride[2] / finest[2])
                for d, h, w in product(*sizes_per_axis)
            ]
            for stride in strides
        ]
        return cls(sizes)

    def sizes_on(self, level: int, stride: Shape) -> Sequence[tuple[float, float, float]]:
        """Return those chosen for the level."""
        return self.sizes[level]
