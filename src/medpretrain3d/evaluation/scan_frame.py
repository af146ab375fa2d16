"""The frame in which the boxes of a scan meet: its own axes.

Boxes are found and drawn along the axes of the scan's voxels. Where these are oblique, a box in LPS millimetres is the
hull of the one that is meant: two rods side by side at 45 degrees have hulls that overlap by half. So where a scan's
grid is known and oblique, its boxes are taken to millimetres along the grid's axes (each in the place of the LPS axis
that it is nearest to), in which overlaps, distances and diameters are those of the boxes. Where it lies along the LPS
axes, or nobody knows it, boxes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.store.grid import SAME_PLACE_VOX, Grid


@dataclass(frozen=True)
class FramedCases:
    """The cases of a data set, what was found and what was there each in one frame, and how that was brought about."""

    predictions: Sequence[PredictedCase]
    targets: Sequence[TargetCase]
    notes: Sequence[str]
    """What a reader of the scores has to know; empty where every frame is known."""
    num_oblique: int
    """Scans whose boxes meet along oblique axes."""


def in_scan_frames(predictions: Sequence[PredictedCase], targets: Sequence[TargetCase]) -> FramedCases:
    """Bring what was found and what was there in each scan into the scan's own frame.

    The grid is that of the targets, else that of the predictions. Boxes that one side gives in LPS alone are taken for
    hulls of boxes along the grid's axes (`Grid.boxes_from_lps_hulls`).

    Raises:
        UserError: grids of predictions and targets are turned against each other or have no point in common, or boxes
            in voxels and in LPS are not the same boxes.
    """
    found, wanted = [], []
    num_oblique = 0
    cropped: list[str] = []
    undone: list[str] = []
    enclosed: list[str] = []
    for ours, theirs in zip(predictions, targets, strict=True):
        grid = theirs.grid or ours.grid
        if ours.grid is not None and theirs.grid is not None and not _is_same_region(ours.grid, theirs.grid, ours.case):
            cropped.append(theirs.case)
        if grid is not None and not grid.is_axis_aligned:
            num_oblique += 1
            sides = [
                _along_axes(ours.boxes, ours.boxes_vox, ours.grid, grid, f"predictions of case '{ours.case}'"),
                _along_axes(theirs.boxes, theirs.boxes_vox, theirs.grid, grid, f"targets of case '{theirs.case}'"),
            ]
            ignore = None
            if theirs.ignore is not None:
                where = f"targets of case '{theirs.case}', ignore regions"
                sides.append(_along_axes(theirs.ignore, theirs.ignore_vox, theirs.grid, grid, where))
                ignore = sides[-1].boxes_mm
            ours = PredictedCase(ours.case, sides[0].boxes_mm, ours.scores, ours.labels)
            theirs = TargetCase(theirs.case, sides[1].boxes_mm, theirs.labels, ignore, patient=theirs.patient)
            if any(side.num_undone for side in sides):
                undone.append(theirs.case)
            if any(side.num_enclosed for side in sides):
                enclosed.append(theirs.case)
        found.append(ours)
        wanted.append(theirs)
    texts = (
        (
            cropped,
            "predictions and targets name grids of one direction but of other extents; boxes are compared "
            "where they lie in the patient; if these are other scans under the same ids, the scores mean nothing",
        ),
        (
            undone,
            "oblique, with boxes in LPS alone, which are taken for hulls of boxes along the scan's axes; "
            "give boxes_vox and grid to state the boxes themselves",
        ),
        (
            enclosed,
            "oblique, with boxes in LPS alone that leave open which boxes along the scan's axes they enclose; they are "
            "scored by their hulls there, which are larger: overlaps are not to be trusted; give boxes_vox and grid",
        ),
    )
    notes = [f"{len(cases)} of {len(found)} scans, first '{cases[0]}': {text}" for cases, text in texts if cases]
    return FramedCases(found, wanted, notes, num_oblique)


def with_known_grids(targets: Sequence[TargetCase], *predictions: Sequence[PredictedCase]) -> list[TargetCase]:
    """Targets that do not know their scan's grid get that of the first predictions that do, so that several sets of
    predictions are scored in one frame."""
    return [
        theirs
        if theirs.grid is not None
        else replace(theirs, grid=next((one.grid for one in ours if one.grid is not None), None))
        for theirs, *ours in zip(targets, *predictions, strict=True)
    ]


@dataclass(frozen=True)
class _Side:
    """Boxes (N, 6) in mm along a grid's axes, and how many of them were got from hulls or are larger than meant."""

    boxes_mm: np.ndarray
    num_undone: int = 0
    num_enclosed: int = 0


def _along_axes(
    boxes_lps_mm: np.ndarray, boxes_vox: np.ndarray | None, own: Grid | None, grid: Grid, where: str
) -> _Side:
    edge_mm = np.tile(grid.spacing_mm, 2)
    nearest = grid.canonical()[1][::-1]  # axes of the grid, in the order of (L, P, S)
    columns = [*nearest, *(axis + 3 for axis in nearest)]
    if boxes_vox is None:
        boxes_vox, is_hull = grid.boxes_from_lps_hulls(boxes_lps_mm)
        return _Side((boxes_vox * edge_mm)[:, columns], int(is_hull.sum()), int((~is_hull).sum()))
    own = own or grid
    apart_mm = np.abs(own.boxes_to_lps_mm(boxes_vox) - boxes_lps_mm).max(axis=1)
    wrong = np.nonzero(apart_mm > SAME_PLACE_VOX * max(own.spacing_mm))[0]
    if len(wrong):
        raise UserError(
            f"{where}: box {wrong[0]} in voxels lies {apart_mm[wrong[0]]:.3g} mm from the one in LPS mm; "
            "the files are of different scans, or one of the two was changed: write it again, or leave boxes_vox out"
        )
    boxes_mm = (boxes_vox if own == grid else own.map_boxes(boxes_vox, grid)) * edge_mm
    return _Side(boxes_mm[:, columns])


def _is_same_region(ours: Grid, theirs: Grid, case: str) -> bool:
    """Return whether two grids of one direction have the same extent."""
    advice = "another scan has the same id: predict the scan that the targets are of"
    if not ours.is_parallel(theirs):
        raise UserError(f"case '{case}': the grid of the predictions is turned against that of the targets; {advice}")
    extent = ours.map_boxes(np.array([[0, 0, 0, *ours.shape]]), theirs)[0]
    if (extent[3:] <= 0).any() or (extent[:3] >= theirs.shape).any():
        raise UserError(
            f"case '{case}': the grids of predictions and targets have no point of the patient in common; {advice}"
        )
    return bool(np.abs(extent - [0, 0, 0, *theirs.shape]).max() <= SAME_PLACE_VOX)
