"""Boxes of other programs as predictions of the scans that the targets are of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, predicted_case
from medpretrain3d.evaluation.files import LPS, PredictionFile, TargetFile
from medpretrain3d.store.grid import Grid


def placed_case(
    path: Path, case: str, boxes_vox: np.ndarray, scores: Any, labels: Any, targets: TargetFile, grid: Grid
) -> PredictedCase:
    """Return the detections of a scan whose boxes (N, 6) are half-open, in voxels of a grid.

    Raises:
        UserError: a box, score or label is wrong; names the file.
    """
    try:  # looked at before they are carried: the hull of a box with swapped corners has none
        predicted_case(case, boxes_vox, scores, labels, targets.classes)
        boxes_lps_mm = grid.boxes_to_lps_mm(boxes_vox)
        return predicted_case(case, boxes_lps_mm, scores, labels, targets.classes, grid, boxes_vox)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def prediction_file(
    path: Path, cases: Iterable[PredictedCase], targets: TargetFile, notes: Iterable[str] = ()
) -> PredictionFile:
    """Return the detections of scans, in LPS mm."""
    return PredictionFile(path, targets.classes, LPS, None, True, tuple(cases), tuple(notes))


def check_world(path: Path, targets: TargetFile) -> None:
    """Refuse targets of which nobody knows where in the patient they are, beside boxes of which one does.

    Raises:
        UserError: the targets are not in LPS mm.
    """
    if targets.frame != LPS and not any(case.grid is not None for case in targets.cases):
        stated = "state no frame" if targets.frame is None else f"are in frame '{targets.frame}'"
        raise UserError(
            f"{targets.path}: targets {stated}, the boxes of {path} are placed in the patient; "
            "write the targets with `medpretrain3d targets`, or give predictions as JSON in their frame"
        )


def check_cases(path: Path, found: Iterable[str], targets: TargetFile, is_part: bool) -> None:
    """Refuse another set of scans than that of the targets before anything large is read.

    Args:
        path: of the predictions.
        found: the scans that it has.
        targets: what was to be found.
        is_part: whether the targets may be a part of them.

    Raises:
        UserError: targets without names of scans, or a scan that only one of the two has.
    """
    if not targets.has_names:
        raise UserError(f"{targets.path}: names no scans, by which those of {path} are found; name each by `case`")
    there, wanted = set(found), {case.case for case in targets.cases}
    for names, text in (
        (wanted - there, f"of {targets.path} has no prediction there; predict it"),
        (
            set() if is_part else there - wanted,
            f"is not in {targets.path}; give targets of all scans that were predicted, or take it away",
        ),
    ):
        if names:
            more = f", {len(names)} such," if len(names) > 1 else ""
            raise UserError(f"{path}: case '{min(names)}'{more} {text}")
