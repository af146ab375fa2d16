"""Voxel geometry in patient space: the one place that converts between voxels and millimeters.

World coordinates are LPS millimetres (x to the patient's Left, y to Posterior, z to Superior), as in DICOM. Voxel
centres lie at integer indices; the edge `e` of a half-open box therefore lies at index coordinate `e - 0.5`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Number, Whole
from medpretrain3d.errors import UserError

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]

SAME_PLACE_VOX = 0.1
"""Two grids are one where none of their eight corners lies further apart than this, in voxels along any axis: headers
round, a spacing of 0.703125 mm to 0.703 moves the last of 512 columns by 0.09, and no voxel is taken for another."""
ROUNDING_VOX = 1e-3
"""A resampled edge this close to a voxel border counts as lying on it: headers store spacing as float32."""

ALIGNED_OFF_AXIS = 1e-6
"""A grid lies along the LPS axes where no direction cosine off the nearest axis is larger: a micrometre in a metre."""
PARALLEL_OFF_AXIS = 1e-3
"""Two grids lie along the same axes where no direction cosine off the nearest axis is larger: headers round directions
to a few digits, and 0.06 degrees move the far end of 300 mm by 0.3 mm."""
ALIKE_DIGITS = 4
"""Of direction cosines that decide which world axis an array axis is nearest to: headers round to six or seven."""
MAX_HULL_CONDITION = 10.0
"""What rounding of a hull's edges may grow by in the box inside it. Near 45 degrees (39 to 51 for a turn about one
axis) it is more: a square hull is that of every box with this sum of two edges."""

_Row = Annotated[list[Annotated[Number, Field(ge=-1e9, le=1e9)]], Field(min_length=4, max_length=4)]


@with_config(SCHEMA)
class GridDocument(TypedDict):
    """A grid as plain data."""

    shape: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=3, max_length=3)]
    affine_lps: Annotated[list[_Row], Field(min_length=4, max_length=4)]


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in the patient.

    Args:
        shape: number of voxels along the array's three axes.
        affine_lps: (4, 4) float64, from voxel index along the array's axes to LPS mm (x, y, z).

    Raises:
        ValueError: the shape is not three positive numbers, or the affine is not finite and invertible.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.store import Grid
        >>> grid = Grid(shape=(10, 20, 20), affine_lps=[[0, 0, 0.5, 0], [0, 0.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
        >>> grid.spacing_mm
        (2.0, 0.5, 0.5)
        >>> grid.resampled((1.0, 1.0, 1.0)).shape
        (20, 10, 10)
        >>> grid.boxes_to_lps_mm(np.array([[0.0, 0, 0, 1, 2, 2]]))
        array([[-0.25, -0.25, -1.  ,  0.75,  0.75,  1.  ]])
    """

    shape: Triple
    affine_lps: np.ndarray

    def __post_init__(self) -> None:
        affine = np.array(self.affine_lps, dtype=np.float64)
        affine.flags.writeable = False
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"grid of shape {tuple(self.shape)}: wanted three positive numbers")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or _volume_share(affine[:3, :3]) < 1e-9:
            raise ValueError(f"affine {affine.tolist()}: wanted a finite, invertible 4 x 4 matrix")
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "affine_lps", affine)

    @property
    def spacing_mm(self) -> Spacing:
        """Distance of neighbouring voxel centres along each array axis."""
        d, h, w = (float(length) for length in np.linalg.norm(self.affine_lps[:3, :3], axis=0))
        return (d, h, w)

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors along the array axes in LPS, one per column (3, 3)."""
        result: np.ndarray = self.affine_lps[:3, :3] / np.array(self.spacing_mm)
        return result

    @property
    def is_axis_aligned(self) -> bool:
        """Whether every array axis runs along an LPS axis, in any order and direction; else the grid is oblique."""
        return _off_axis(self.directions) <= ALIGNED_OFF_AXIS

    def is_parallel(self, other: Grid) -> bool:
        """Return whether the array axes of two grids run along the same lines, in any order and direction."""
        return _off_axis(np.linalg.inv(self.directions) @ other.directions) <= PARALLEL_OFF_AXIS

    def map_boxes(self, boxes_vox: np.ndarray, to: Grid) -> np.ndarray:
        """Return boxes (N, 6) of this grid in voxels of another: exact where the axes are parallel, else the hull."""
        return _hull(boxes_vox, _EDGE_FROM_INDEX @ np.linalg.inv(to.affine_lps) @ self.affine_lps @ _INDEX_FROM_EDGE)

    def boxes_to_lps_mm(self, boxes_vox: np.ndarray) -> np.ndarray:
        """Return boxes (N, 6) as `(x0, y0, z0, x1, y1, z1)` in LPS mm; the hull where the grid is oblique."""
        return _hull(boxes_vox, self.affine_lps @ _INDEX_FROM_EDGE)

    def boxes_from_lps_mm(self, boxes_lps_mm: np.ndarray) -> np.ndarray:
        """Return world boxes (N, 6) in voxels of this grid; the hull where the grid is oblique."""
        return _hull(boxes_lps_mm, _EDGE_FROM_INDEX @ np.linalg.inv(self.affine_lps))

    def boxes_from_lps_hulls(self, boxes_lps_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the inverse of `boxes_to_lps_mm`: boxes along this grid's axes from their hulls in LPS.

        A hull has the center of its box, and its edges (x, y, z) are `|directions|` times the edges of the box.

        Returns:
            Boxes (N, 6) in voxels, and whether each is the one that has this hull (N,). Where none has it, or near 45
            degrees many have, it is `boxes_from_lps_mm`, which is larger.
        """
        boxes_lps_mm = np.asarray(boxes_lps_mm, dtype=np.float64).reshape(-1, 6)
        boxes_vox = self.boxes_from_lps_mm(boxes_lps_mm)
        spread = np.abs(self.directions)
        if not np.linalg.cond(spread, np.inf) <= MAX_HULL_CONDITION:
            return boxes_vox, np.zeros(len(boxes_vox), dtype=bool)
        edges = (boxes_lps_mm[:, 3:] - boxes_lps_mm[:, :3]) @ np.linalg.inv(spread).T / np.array(self.spacing_mm)
        center = (boxes_vox[:, :3] + boxes_vox[:, 3:]) / 2
        is_hull = (edges > 0).all(axis=1) | (boxes_lps_mm[:, 3:] == boxes_lps_mm[:, :3]).all(axis=1)  # or points
        boxes_vox[is_hull] = np.concatenate([center - edges / 2, center + edges / 2], axis=1)[is_hull]
        return boxes_vox, is_hull

    def crop(self, start: Sequence[int], size: Sequence[int]) -> Grid:
        """Return the part of `size` voxels whose lowest voxel is `start` (which may lie outside)."""
        return Grid(_three(size), self.affine_lps @ _translation(start))

    def resampled(self, spacing_mm: Sequence[float]) -> Grid:
        """Return the same region at another spacing: the low corner stays, so `box_new = box_old * old / new` per axis.

        The last voxel may reach over the old region's end, never fall short of it.
        """
        ratio = np.array(self.spacing_mm) / np.array(spacing_mm, dtype=np.float64)
        shape = np.maximum(np.ceil(np.array(self.shape) * ratio - ROUNDING_VOX), 1).astype(int)
        scale = np.diag([*(1 / ratio), 1.0])
        return Grid(_three(shape), self.affine_lps @ _INDEX_FROM_EDGE @ scale @ _EDGE_FROM_INDEX)

    def canonical(self) -> tuple[Grid, tuple[int, int, int], tuple[int, ...]]:
        """Return the grid with its axes permuted and mirrored so that they run nearest to (Superior, Posterior, Left).

        Returns:
            The grid, the order of the old axes, and the new axes that are mirrored:
            `np.flip(array.transpose(order), mirrored)` is the array on the new grid.
        """
        world_axis, direction_along = _nearest_axes(self.directions)
        order = np.argsort(-world_axis)  # z, y, x
        directions = direction_along[order]
        shape = np.array(self.shape)[order]
        to_old = np.zeros((4, 4))
        to_old[3, 3] = 1
        for new_axis, (old_axis, direction) in enumerate(zip(order, directions, strict=True)):
            to_old[old_axis, new_axis] = direction
            to_old[old_axis, 3] = 0 if direction > 0 else shape[new_axis] - 1
        mirrored = tuple(int(axis) for axis in np.flatnonzero(directions < 0))
        return Grid(_three(shape), self.affine_lps @ to_old), _three(order), mirrored

    def corner_distance_vox(self, other: Grid) -> float:
        """Compute the largest distance between the same corners of two grids of one shape, in voxels of this one:
        along any axis, of any of the eight corners."""
        corners = np.array([*itertools.product(*((-0.5, size - 0.5) for size in self.shape))])
        moved = np.linalg.inv(self.affine_lps) @ other.affine_lps @ np.column_stack([corners, np.ones(8)]).T
        return float(np.abs(moved[:3].T - corners).max())

    def is_close(self, other: Grid) -> bool:
        """Whether two grids have one shape and corners at most `SAME_PLACE_VOX` apart: the one rule by which files are
        of one place."""
        return self.shape == other.shape and self.corner_distance_vox(other) <= SAME_PLACE_VOX

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"shape": list(self.shape), "affine_lps": self.affine_lps.tolist()}

    @staticmethod
    def from_json(document: GridDocument) -> Grid:
        """Read what `to_json` gave.

        Raises:
            UserError: an impossible shape or affine.
        """
        try:
            return Grid(_three(document["shape"]), np.array(document["affine_lps"], dtype=np.float64))
        except ValueError as error:
            raise UserError(f"{error}; make the file again") from error

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Grid) and self.shape == other.shape and np.array_equal(self.affine_lps, other.affine_lps)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.affine_lps.tobytes()))


def _nearest_axes(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the world axis that each array axis is nearest to, each once, and its direction along it, 1 or -1: (3,).

    As nibabel's `io_orientation`, the clearest array axis chooses first, but of directions without their rounding and
    with one order of equals: at 45 degrees the last digit of a header, or the order in which a file stores its axes,
    would turn a scan by 90 degrees, away from its mask.

    Args:
        directions: (3, 3) unit vectors of the array axes, one per column.
    """
    left, _, right = np.linalg.svd(directions)
    cosines = np.round(left @ right, ALIKE_DIGITS) + 0.0  # of the nearest rotation; no -0
    lines = [tuple(column * (np.sign(column[np.flatnonzero(column)[0]]))) for column in cosines.T]
    world_axis, direction_along, is_free = np.zeros(3, int), np.zeros(3, int), np.ones(3, bool)
    for axis in sorted(range(3), key=lambda axis: (max(map(abs, lines[axis])), lines[axis]), reverse=True):
        nearest = int(np.argmax(np.where(is_free, np.abs(cosines[:, axis]), -1)))
        world_axis[axis], is_free[nearest] = nearest, False
        direction_along[axis] = -1 if cosines[nearest, axis] < 0 else 1
    return world_axis, direction_along


def _volume_share(matrix: np.ndarray) -> float:
    """Return volume of a voxel as a share of a rectangular one with the same edges; 0 where axes lie in a plane."""
    edges = float(np.prod(np.linalg.norm(matrix, axis=0)))
    return abs(float(np.linalg.det(matrix))) / edges if edges > 0 else 0.0


def _off_axis(directions: np.ndarray) -> float:
    """Return the largest cosine (3, 3) beside the largest of each column."""
    return float(np.sort(np.abs(directions), axis=0)[:-1].max())


def _translation(offset: Sequence[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


_INDEX_FROM_EDGE = _translation((-0.5, -0.5, -0.5))
_EDGE_FROM_INDEX = _translation((0.5, 0.5, 0.5))


def _hull(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return hull (N, 6) of the eight mapped corners of every box, float64."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    picks = np.array(list(itertools.product((0, 3), (1, 4), (2, 5))))  # (8, 3): which corner coordinate
    corners = boxes[:, picks] @ matrix[:3, :3].T + matrix[:3, 3]  # (N, 8, 3)
    low, high = corners.min(axis=1), corners.max(axis=1)
    is_point = (boxes[:, :3] == boxes[:, 3:]).all(axis=1)  # and stays one, however sums are rounded
    return np.concatenate([low, np.where(is_point[:, None], low, high)], axis=1)


def _three(values: Sequence[int] | np.ndarray) -> Triple:
    a, b, c = (int(value) for value in values)
    return (a, b, c)
