"""Objects and ignore regions the way data sets write them down: boxes, spheres and points in one of three frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.skipped_cases import InvalidCaseError

Frame = Literal["voxels", "slices", "lps_mm"]
"""`voxels`: of the file's own array (i, j, k), which is (column, row, slice) in DICOM and MetaImage; voxel `i` fills
`[i, i + 1)`. `lps_mm`: (x, y, z) as in DICOM. `slices`: column and row as in `voxels`, the slice by the z of its centre
in LPS mm, as annotations of axial DICOM series name it. Of slices that a tilted gantry shifted both name the pixels as
the file has them, wherever the slices were moved to."""
FRAMES: tuple[Frame, ...] = get_args(Frame)

Point = tuple[float, float, float]


@dataclass(frozen=True)
class BoxAnnotation:
    """A box by its lowest and highest corner.

    In the frame `slices` the third numbers are the z of the first and last slice that belong to the box.
    """

    low: Point
    high: Point
    frame: Frame
    label: int = 0
    """Class from 0; of no meaning in an ignore region."""

    def __str__(self) -> str:
        return f"the box from {_written(self.low)} to {_written(self.high)} in {self.frame}"

    def reordered(self, order: Sequence[int], signs: Sequence[int]) -> BoxAnnotation:
        """Return the box with its axes in another order and direction."""
        ends = np.array([self.low, self.high])[:, list(order)] * signs
        (x0, y0, z0), (x1, y1, z1) = np.sort(ends, axis=0).tolist()
        return replace(self, low=(x0, y0, z0), high=(x1, y1, z1))

    def box_vox(self, grid: Grid, tilted_grid: Grid | None = None) -> np.ndarray:
        """The box (6,) in voxels of the scan's grid, half-open; the hull of a world box where the grid is oblique, and
        of a box of pixels the hull of its parts where its slices were moved.

        Args:
            grid: of the scan, in the order of the file's array.
            tilted_grid: of the file's own slices, where they were moved, as of `Volume`.

        Raises:
            InvalidCaseError: the frame is `slices` and the grid is not axial, or a slice lies between two of the grid.
        """
        if self.frame == "lps_mm":
            result: np.ndarray = grid.boxes_from_lps_mm(np.array([[*self.low, *self.high]]))[0]
            return result
        box = np.array([*self.low, *self.high], dtype=np.float64)
        if self.frame == "slices":
            first, last = sorted(_slice_index(tilted_grid or grid, z_mm) for z_mm in (self.low[2], self.high[2]))
            box[[2, 5]] = first, last + 1
        return box if tilted_grid is None else _hull_of_slices(box, grid, tilted_grid)


@dataclass(frozen=True)
class SphereAnnotation:
    """A sphere by its centre and diameter. A centre in `voxels` counts like a box: the first voxel's middle is 0.5."""

    center: Point
    diameter_mm: float
    frame: Frame = "lps_mm"
    label: int = 0

    def __str__(self) -> str:
        return f"the sphere of {self.diameter_mm:g} mm around {_written(self.center)} in {self.frame}"

    def reordered(self, order: Sequence[int], signs: Sequence[int]) -> SphereAnnotation:
        """Return the sphere with its axes in another order and direction."""
        x, y, z = (self.center[axis] * sign for axis, sign in zip(order, signs, strict=True))
        return replace(self, center=(x, y, z))

    def box_vox(self, grid: Grid, tilted_grid: Grid | None = None) -> np.ndarray:
        """The sphere's exact hull (6,) in voxels of the scan's grid, along its own axes also where they are oblique.

        Raises:
            InvalidCaseError: as for a box.
        """
        center = _center_vox(self.center, self.frame, grid, tilted_grid)
        radius_vox = self.diameter_mm / 2 / np.array(grid.spacing_mm)
        return np.concatenate([center - radius_vox, center + radius_vox])


@dataclass(frozen=True)
class PointAnnotation:
    """An object by its center alone, its size not being known. A center in `voxels` counts as that of a sphere."""

    center: Point
    frame: Frame = "lps_mm"
    label: int = 0

    def __str__(self) -> str:
        return f"the point {_written(self.center)} in {self.frame}"

    def reordered(self, order: Sequence[int], signs: Sequence[int]) -> PointAnnotation:
        """Return the point with its axes in another order and direction."""
        x, y, z = (self.center[axis] * sign for axis, sign in zip(order, signs, strict=True))
        return replace(self, center=(x, y, z))

    def box_vox(self, grid: Grid, tilted_grid: Grid | None = None) -> np.ndarray:
        """The point (6,) in voxels of the scan's grid, as a box whose two corners are one.

        Raises:
            InvalidCaseError: as for a box.
        """
        return np.tile(_center_vox(self.center, self.frame, grid, tilted_grid), 2)


ObjectAnnotation = BoxAnnotation | SphereAnnotation | PointAnnotation


def boxes_of(annotations: Sequence[ObjectAnnotation], grid: Grid, tilted_grid: Grid | None = None) -> np.ndarray:
    """Return boxes (N, 6) float64 of marks in voxels of the scan's grid, see `BoxAnnotation.box_vox`.

    Raises:
        InvalidCaseError: as `BoxAnnotation.box_vox`.
    """
    boxes = [annotation.box_vox(grid, tilted_grid) for annotation in annotations]
    return np.array(boxes, dtype=np.float64).reshape(-1, 6)


def _center_vox(center: Point, frame: Frame, grid: Grid, tilted_grid: Grid | None) -> np.ndarray:
    place = np.array(center, dtype=np.float64)
    if frame == "lps_mm":
        result: np.ndarray = (np.linalg.inv(grid.affine_lps) @ [*place, 1.0])[:3] + 0.5
        return result
    if frame == "slices":
        place[2] = _slice_index(tilted_grid or grid, place[2]) + 0.5
    return place if tilted_grid is None else place + _shift_vox(place[2] - 0.5, grid, tilted_grid)


def _hull_of_slices(box: np.ndarray, grid: Grid, tilted_grid: Grid) -> np.ndarray:
    """Return the hull (6,) of a box of pixels, of which each slice was moved; an empty one stays empty."""
    first, last = np.floor(box[2]), np.ceil(box[5]) - 1
    is_empty = not (box[:3] < box[3:]).all()
    ends = np.array([_shift_vox(k, grid, tilted_grid) for k in (first, first if is_empty else last)])
    result: np.ndarray = box + np.concatenate([ends.min(axis=0), ends.max(axis=0)])
    return result


def _shift_vox(k: float, grid: Grid, tilted_grid: Grid) -> np.ndarray:
    """Return how far (3,) slice `k` of a tilted gantry was moved within its plane to lie on a straight grid."""
    start = np.linalg.inv(grid.affine_lps) @ tilted_grid.affine_lps @ [0.0, 0.0, k, 1.0]
    return np.array([start[0], start[1], 0.0])


def _slice_index(grid: Grid, z_mm: float) -> int:
    step_mm = grid.affine_lps[2, :3]  # how z changes along column, row and slice
    if np.abs(step_mm[:2]).max() > 1e-3 * abs(step_mm[2]):
        raise InvalidCaseError(
            f"slices are named by their z, but the series is not axial: z grows by {step_mm.tolist()} mm", "annotation"
        )
    index = (z_mm - grid.affine_lps[2, 3]) / step_mm[2]
    if abs(index - round(index)) > 0.3 or not 0 <= round(index) < grid.shape[2]:
        raise InvalidCaseError(
            f"no slice at z = {z_mm:g} mm, slices are {abs(step_mm[2]):g} mm apart; is this the annotated series?",
            "annotation",
        )
    result: int = round(index)
    return result


def _written(point: Point) -> str:
    return "(" + ", ".join(f"{value:g}" for value in point) + ")"
