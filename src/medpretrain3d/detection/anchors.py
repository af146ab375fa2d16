"""Anchor boxes on the cells of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.values import Finite

Shape = tuple[int, int, int]


class AnchorGrid(Configurable):
    """The same anchors centred on every cell of a level: cell `c` of stride `s` has its centre at `(c + 0.5) s`.

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
        # Kept as a plain attribute, not as a buffer: `module.half()` must not round voxels.
        self._last: tuple[object, Tensor] | None = None

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

    def __call__(self, shapes: Sequence[Shape], strides: Sequence[Shape], device: torch.device | str) -> Tensor:
        """Return all anchors (A, 6) float32, ordered by level, then cell (D, H, W), then anchor of the cell."""
        key = (tuple(shapes), tuple(strides), str(device))
        if self._last is None or self._last[0] != key:
            levels = [self._level(*level) for level in zip(self.sizes, shapes, strides, strict=True)]
            self._last = (key, torch.cat(levels).to(device))
        return self._last[1]

    def per_level(self, shapes: Sequence[Shape]) -> list[int]:
        """Return the number of anchors on each level."""
        return [d * h * w * self.per_cell for d, h, w in shapes]

    @staticmethod
    def _level(sizes: Sequence[tuple[float, float, float]], shape: Shape, stride: Shape) -> Tensor:
        axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * s for n, s in zip(shape, stride, strict=True)]
        centers_vox = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, 3)  # (cells, 1, 3)
        half = torch.tensor(sizes, dtype=torch.float32)[None] / 2  # (1, anchors of a cell, 3)
        return torch.cat([centers_vox - half, centers_vox + half], dim=-1).reshape(-1, 6)
