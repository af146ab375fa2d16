"""The planar contours of one structure as a mask on a scan's grid.

Contours are drawn in planes, and a scan's slices need not be these: of each slice the nearest plane counts.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medpretrain3d.ingest.polygons import fill_polygons
from medpretrain3d.store.grid import Grid

FLAT_VOX = 0.1
"""A contour lies in a slice if its points are at most this far from one plane along the grid's axis, in slices."""
SAME_PLANE = 0.05
"""Contours are of one plane if they are at most this share of a step apart."""
ALIKE = 0.1
"""Distances of planes that differ by at most this share are one."""
FINER = 2.0
"""Contours that are oblique to the scan are filled on a grid of their own, finer than the scan's by this."""

_NOT_IN_PLANE = "contours that lie in no plane of the structure's others, which were left out"
_OUTSIDE = "contours outside of the scan, which were left out"
_FILLED = "slices without a contour between planes a step apart, which took the nearer one"
_GAPS = "slices without a contour between slices with one, which were left empty"


@dataclass(frozen=True)
class ContourMask:
    """A structure on a grid.

    Args:
        mask: bool, of the grid's shape.
        remarks: how often something was done that the contours do not say.
    """

    mask: np.ndarray
    remarks: Counter[str] = field(default_factory=Counter)


def fill_contours(contours: Sequence[np.ndarray], grid: Grid) -> ContourMask:
    """Fill closed planar contours: a voxel belongs to the structure if its center lies inside or on the line.

    Contours in one plane exclude each other where they overlap (a contour within a contour is a hole). Each slice takes
    the contours of the nearest plane, at most half a slice away. Contours on every second slice fill those between, as
    do those of any other step that most planes are apart, where the planes on both sides overlap; they are counted. Of
    contours finer than the slices each slice takes one plane. A wider gap stays empty and is counted. Contours in
    planes oblique to the grid are filled in these, and each voxel takes the value at its center.

    Args:
        contours: (P, 3) points of each in LPS mm.
        grid: of the scan's file.
    """
    to_vox = np.linalg.inv(grid.affine_lps)
    points = [contour @ to_vox[:3, :3].T + to_vox[:3, 3] for contour in contours]
    axis, is_flat = _stack_axis(points)
    num_points = np.array([len(one) for one in points])
    # Of a structure oblique to the scan only its smallest contours are flat within the tolerance.
    is_parallel = num_points[is_flat].sum() >= num_points.sum() / 2
    return _fill(points, axis, grid.shape) if is_parallel else _fill_oblique(contours, grid)


def _stack_axis(points: Sequence[np.ndarray]) -> tuple[int, np.ndarray]:
    """Return the grid's axis across which contours are the flattest, and which ones are flat (N,)."""
    spread = np.array([np.ptp(one, axis=0) for one in points]).reshape(-1, 3)
    axis = int(np.argmin(spread.sum(axis=0)))
    result: np.ndarray = spread[:, axis] <= FLAT_VOX
    return axis, result


def _fill(points: Sequence[np.ndarray], axis: int, shape: tuple[int, int, int]) -> ContourMask:
    mask, remarks = np.zeros(shape, dtype=bool), Counter[str]()
    stacked = np.moveaxis(mask, axis, 0)
    is_flat = [float(np.ptp(one[:, axis])) <= FLAT_VOX for one in points]
    remarks[_NOT_IN_PLANE] += len(is_flat) - sum(is_flat)
    kept = [one for one, flat in zip(points, is_flat, strict=True) if flat]
    heights = np.array([float(one[:, axis].mean()) for one in kept])
    remarks[_OUTSIDE] += sum(_is_outside(one, shape) for one in kept)
    planes = _planes(heights)
    levels = np.array([heights[plane].mean() for plane in planes])
    widest = max(_step(levels, 1.0), 1.0) + 2 * SAME_PLANE
    in_plane = [other for other in range(3) if other != axis]

    @functools.lru_cache(maxsize=2)  # two planes, not the stack
    def filled(number: int) -> np.ndarray:
        return fill_polygons([kept[one][:, in_plane] for one in planes[number]], stacked.shape[1:])

    taken: list[int] = []
    for index in range(len(stacked)):
        nearest = int(np.abs(levels - index).argmin())
        # At either end half a slice, so that planes halfway between slices give as many slices as there are planes.
        if not levels[0] - 0.5 + 1e-6 < index <= levels[-1] + 0.5 + 1e-6:
            continue
        if abs(index - levels[nearest]) > 0.5 + SAME_PLANE:
            above = int(np.searchsorted(levels, index))
            if levels[above] - levels[above - 1] > widest or not (filled(above) & filled(above - 1)).any():
                continue
            remarks[_FILLED] += 1
        stacked[index] = filled(nearest)
        taken.append(index)
    remarks[_GAPS] += (taken[-1] - taken[0] + 1 - len(taken)) if taken else 0
    return ContourMask(mask, +remarks)


def _step(levels: np.ndarray, slice_step: float) -> float:
    """Return how far apart planes (P,) are drawn: the most frequent distance, of these the least.

    One that occurs once is a gap between two objects as well as a step, and does not count where it is wider than that
    of the slices.
    """
    steps = np.diff(levels)
    if not len(steps):
        return slice_step
    are_alike = np.abs(steps[:, None] - steps) <= ALIKE * steps
    count = are_alike.sum(axis=0)
    step = float(steps[count == count.max()].min())
    return step if count.max() > 1 or step <= slice_step else slice_step


def _planes(heights: np.ndarray) -> list[list[int]]:
    """Return the contours of each plane, from the lowest on."""
    order = np.argsort(heights, kind="stable")
    planes: list[list[int]] = []
    for index in order.tolist():
        if planes and heights[index] - heights[planes[-1][0]] <= SAME_PLANE:
            planes[-1].append(index)
        else:
            planes.append([index])
    return planes


def _is_outside(points: np.ndarray, shape: tuple[int, int, int]) -> bool:
    return bool(((points.max(axis=0) < -0.5) | (points.min(axis=0) > np.array(shape) - 0.5)).any())


def _fill_oblique(contours: Sequence[np.ndarray], grid: Grid) -> ContourMask:
    """Fill contours on a grid in their own planes, and look up each of the scan's voxels there."""
    area = max((_area(contour) for contour in contours), key=np.linalg.norm)
    if not area.any():
        return ContourMask(np.zeros(grid.shape, dtype=bool), Counter({_NOT_IN_PLANE: len(contours)}))
    normal = area / np.linalg.norm(area)
    side = np.linalg.svd(normal[None])[2][1]
    frame = np.stack([side, np.cross(normal, side), normal])  # rows: two axes in the plane, and its normal
    inside = [contour @ frame.T for contour in contours]
    fine_mm = min(grid.spacing_mm) / FINER
    levels = np.unique(np.rint([one[:, 2].mean() / (SAME_PLANE * fine_mm) for one in inside])) * SAME_PLANE * fine_mm
    # A single plane is as thick as the scan's steps along its normal.
    step_mm = _step(levels, float(np.abs(normal @ grid.affine_lps[:3, :3]).max()))
    spacing = np.array([fine_mm, fine_mm, step_mm])
    points = np.concatenate(inside)
    corners = np.array(list(itertools.product(*((0, size) for size in grid.shape)))) @ grid.affine_lps[:3, :3].T
    scan = (corners + grid.affine_lps[:3, 3]) @ frame.T  # what reaches over it is cut off
    low = np.maximum(points.min(axis=0), scan.min(axis=0)) - 2 * spacing
    high = np.minimum(points.max(axis=0), scan.max(axis=0)) + 2 * spacing
    if (low > high).any():
        return ContourMask(np.zeros(grid.shape, dtype=bool), Counter({_OUTSIDE: len(contours)}))
    low[2] = levels[0] + step_mm * np.floor((low[2] - levels[0]) / step_mm)  # planes lie on the grid's slices
    shape = tuple(int(size) for size in np.ceil((high - low) / spacing) + 1)
    found = _fill([(one - low) / spacing for one in inside], 2, shape)  # type: ignore[arg-type]  # three sizes
    to_index = (np.linalg.inv(np.diag(spacing)) @ frame) @ grid.affine_lps[:3, :3]
    offset = (frame @ grid.affine_lps[:3, 3] - low) / spacing
    mask = np.zeros(grid.shape, dtype=bool)
    i, j = np.meshgrid(*(np.arange(size) for size in grid.shape[:2]), indexing="ij")
    for k in range(grid.shape[2]):
        index = np.stack([i, j, np.full_like(i, k)], axis=-1) @ to_index.T + offset
        rounded = np.floor(index + 0.5).astype(int)
        is_there = ((rounded >= 0) & (rounded < shape)).all(axis=-1)
        mask[is_there, k] = found.mask[tuple(rounded[is_there].T)]
    return ContourMask(mask, found.remarks)


def _area(contour: np.ndarray) -> np.ndarray:
    """Return twice the area of a contour (3,), along the normal of its plane: Newell's sum over its edges."""
    around = contour - contour.mean(axis=0)
    result: np.ndarray = np.cross(around, np.roll(around, -1, axis=0)).sum(axis=0)
    return result
