"""The room a phantom is painted in: a canonical voxel grid whose coordinates are millimetres of the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Slices = tuple[slice, slice, slice]
OpenGrid = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Space:
    """Voxels along (D, H, W) = (Superior, Posterior, Left), and where they lie in the body.

    Args:
        shape: voxels along (D, H, W).
        spacing_mm: along (D, H, W).
        first_mm: body coordinates (z, y, x) of the first voxel's centre. The body's axis is x = y = 0; z = 0 lies near
            the base of the lungs.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_mm: tuple[float, float, float]

    @property
    def voxel_mm(self) -> float:
        """Edge of the cube that has a voxel's volume."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    def coordinates(self) -> OpenGrid:
        """Return body coordinates z (D, 1, 1), y (1, H, 1), x (1, 1, W) of the voxel centres in mm, float32."""
        z, y, x = np.ogrid[tuple(slice(size) for size in self.shape)]
        return tuple(  # type: ignore[return-value]  # three axes make three arrays
            (first + step * index).astype(np.float32)
            for first, step, index in zip(self.first_mm, self.spacing_mm, (z, y, x), strict=True)
        )

    def nearest_voxel(self, points_mm: np.ndarray) -> np.ndarray:
        """Return index of the voxel nearest to each point: (..., 3) int64; may lie outside."""
        result: np.ndarray = np.rint((points_mm - np.array(self.first_mm)) / np.array(self.spacing_mm)).astype(np.int64)
        return result

    def voxel_center_mm(self, index: np.ndarray) -> np.ndarray:
        """Return body coordinates (..., 3) of voxel centres."""
        result: np.ndarray = np.array(self.first_mm) + np.array(self.spacing_mm) * index
        return result

    def around(self, center_mm: np.ndarray, reach_mm: float) -> tuple[Slices, OpenGrid]:
        """Return the voxels within `reach_mm` of a point along each axis, and their coordinates relative to it."""
        slices, offsets = [], []
        for axis in range(3):
            center = (center_mm[axis] - self.first_mm[axis]) / self.spacing_mm[axis]
            reach = reach_mm / self.spacing_mm[axis]
            start = min(max(int(np.floor(center - reach)), 0), self.shape[axis])
            stop = max(min(int(np.ceil(center + reach)) + 1, self.shape[axis]), start)
            slices.append(slice(start, stop))
            offsets.append((np.arange(start, stop) - center) * self.spacing_mm[axis])
        z, y, x = offsets
        return (slices[0], slices[1], slices[2]), (z[:, None, None], y[None, :, None], x[None, None, :])

    def part(self, slices: Slices) -> Space:
        """Return the room of `array[slices]`."""
        d, h, w = (part.stop - part.start for part in slices)
        z, y, x = self.voxel_center_mm(np.array([part.start for part in slices])).tolist()
        return Space((d, h, w), self.spacing_mm, (z, y, x))

    def is_inside(self, mask: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
        """Whether the voxel nearest to each point (N, 3) is set in `mask` (D, H, W): (N,) bool; outside is False."""
        index = self.nearest_voxel(points_mm)
        within = np.all((index >= 0) & (index < np.array(self.shape)), axis=-1)
        index = np.where(np.expand_dims(within, -1), index, 0)
        result: np.ndarray = within & mask[index[..., 0], index[..., 1], index[..., 2]]
        return result
