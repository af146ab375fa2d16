"""The part of a scan in which one looks: an organ's mask or boxes, and all that lies near it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from medpretrain3d.boxes import box_center
from medpretrain3d.errors import UserError
from medpretrain3d.inference.tiles import Triple
from medpretrain3d.store.grid import Grid

DIGITS = 6
"""Of distances in mm."""


class Region(ABC):
    """Some part of a patient, and how far from it a point is."""

    @abstractmethod
    def distances_mm(self, points_lps_mm: np.ndarray, up_to_mm: float) -> np.ndarray:
        """Return how far points (N, 3) are from the region, 0 inside or on a face, infinity beyond `up_to_mm`: (N,).

        To a nanometer, which is more than the places of points and voxels are known to.
        """

    @abstractmethod
    def hull_vox(self, grid: Grid) -> np.ndarray:
        """Return the box (6,) around the region in voxels of a grid, which may reach over it."""


@dataclass(frozen=True, eq=False)
class Near:
    """A region, and how far from it something may lie and still be looked at."""

    region: Region
    margin_mm: float

    def crop_vox(self, grid: Grid) -> tuple[Triple, Triple]:
        """Return the first voxel and the one behind the last along each axis of the hull and its margin.

        Raises:
            UserError: nothing of the grid is there.
        """
        hull, margin = self.region.hull_vox(grid), self.margin_mm / np.array(grid.spacing_mm)
        low = np.clip(np.floor(hull[:3] - margin + 1e-6), 0, grid.shape).astype(int)
        high = np.clip(np.ceil(hull[3:] + margin - 1e-6), 0, grid.shape).astype(int)
        if not (high > low).all():
            raise UserError(
                "the region to look at lies outside of the scan; give masks or boxes of the same scan, in its "
                "coordinates"
            )
        return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))

    def holds(self, boxes_lps_mm: np.ndarray) -> np.ndarray:
        """Return whether the center of each box (N, 6) lies in the region or within the margin: (N,) bool."""
        centers_mm = box_center(boxes_lps_mm)
        return np.asarray(np.isfinite(self.region.distances_mm(centers_mm, self.margin_mm)))


@dataclass(frozen=True, eq=False)
class MaskRegion(Region):
    """The voxels of a mask."""

    mask: np.ndarray
    """(i, j, k) bool, not empty."""
    grid: Grid

    def distances_mm(self, points_lps_mm: np.ndarray, up_to_mm: float) -> np.ndarray:
        """See `Region`; a voxel is a box, so that a point within one has the distance 0."""
        points_vox = self.grid.boxes_from_lps_mm(np.concatenate([points_lps_mm, points_lps_mm], axis=1))[:, :3]
        return np.array([self._distance_mm(point, up_to_mm) for point in points_vox], dtype=np.float64)

    def hull_vox(self, grid: Grid) -> np.ndarray:
        """See `Region`."""
        places = [np.flatnonzero(self.mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        hull = [float(one[0]) for one in places] + [float(one[-1] + 1) for one in places]
        return np.asarray(self.grid.map_boxes(np.array([hull]), grid)[0])

    def _distance_mm(self, point_vox: np.ndarray, up_to_mm: float) -> float:
        spacing_mm = np.array(self.grid.spacing_mm)
        reach = (up_to_mm + 10.0**-DIGITS) / spacing_mm
        # Of a voxel whose far face is just as near as of one whose near face is: scans may be stored from either end.
        low = np.clip(np.ceil(point_vox - reach) - 1, 0, self.mask.shape).astype(int)
        high = np.clip(np.floor(point_vox + reach) + 1, 0, self.mask.shape).astype(int)
        near = np.argwhere(self.mask[tuple(slice(first, last) for first, last in zip(low, high, strict=True))]) + low
        if not len(near):
            return np.inf
        # A point on a voxel's face is in it.
        beyond_mm = np.maximum(np.abs(near + 0.5 - point_vox) - 0.5, 0) * spacing_mm
        nearest = round(float(np.sqrt((beyond_mm**2).sum(axis=1).min())), DIGITS)
        return nearest if nearest <= up_to_mm else np.inf


@dataclass(frozen=True, eq=False)
class BoxRegion(Region):
    """Boxes, as a coarse detector finds them."""

    boxes_lps_mm: np.ndarray
    """(M, 6), one at least."""

    def distances_mm(self, points_lps_mm: np.ndarray, up_to_mm: float) -> np.ndarray:
        """See `Region`."""
        points, low, high = points_lps_mm[:, None], self.boxes_lps_mm[None, :, :3], self.boxes_lps_mm[None, :, 3:]
        beyond_mm = np.maximum(np.maximum(low - points, points - high), 0)  # (N, M, 3)
        nearest = np.sqrt((beyond_mm**2).sum(axis=2)).min(axis=1).round(DIGITS)
        return np.where(nearest <= up_to_mm, nearest, np.inf)

    def hull_vox(self, grid: Grid) -> np.ndarray:
        """See `Region`."""
        boxes = grid.boxes_from_lps_mm(self.boxes_lps_mm)
        return np.concatenate([boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0)])
