"""Predictions and ground truth of one scan, as checked numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.errors import UserError
from medpretrain3d.store.grid import Grid

# The mean of float32 scores that are all 1 may end a rounding above 1.
SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class TargetCase:
    """The objects of one scan: boxes (N, 6) float64 in any one frame, half-open, labels (N,) int64 from 0.

    `ignore` is (M, 6) float64: regions in which finding something is ignored; None is no region.

    A scan's `grid`, where it is known, is that of its file, and boxes and regions are then in LPS mm, as hulls where it
    is oblique. `boxes_vox` (N, 6) and `ignore_vox` (M, 6) are the same in voxels of the file, without hulls.

    Scans of the same `patient` count as one where something is said of how sure a number is; None is a patient of the
    scan's own.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.evaluation import TargetCase
        >>> boxes = np.array([[0.0, 0, 0, 4, 4, 4]])
        >>> TargetCase("scan", boxes, labels=np.array([0]), ignore=boxes + 8).ignore
        array([[ 8.,  8.,  8., 12., 12., 12.]])
    """

    case: str
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray | None = None
    grid: Grid | None = None
    boxes_vox: np.ndarray | None = None
    ignore_vox: np.ndarray | None = None
    patient: str | None = None


@dataclass(frozen=True)
class PredictedCase:
    """The detections of one scan: boxes (N, 6) float64, scores (N,) float64 in [0, 1], labels (N,) int64 from 0.

    `grid` and `boxes_vox` are as in `TargetCase`.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
        >>> box = np.array([[0.0, 0, 0, 4, 4, 4]])
        >>> found = PredictedCase("scan", box, scores=np.array([0.9]), labels=np.array([0]))
        >>> result = evaluate([found], [TargetCase("scan", box, labels=np.array([0]))], ["nodule"], num_bootstrap=0)
        >>> result["num_targets"]
        {'nodule': 1}
    """

    case: str
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    grid: Grid | None = None
    boxes_vox: np.ndarray | None = None


def target_case(
    case: str,
    boxes: Any,
    labels: Any,
    classes: Sequence[str],
    ignore: Any = None,
    grid: Grid | None = None,
    boxes_vox: Any = None,
    ignore_vox: Any = None,
    patient: str | None = None,
) -> TargetCase:
    """Check the objects and ignore regions of one scan.

    Raises:
        UserError: boxes not (N, 6) or not finite, swapped corners, lengths that differ, a label outside `classes`.
    """
    where = f"targets of case '{case}'"
    checked = _boxes(boxes, where)
    regions = None if ignore is None else _boxes(ignore, f"{where}, ignore regions")
    return TargetCase(
        case,
        checked,
        _labels(labels, len(checked), classes, where),
        regions,
        grid,
        _voxels(boxes_vox, checked, where),
        None if regions is None else _voxels(ignore_vox, regions, f"{where}, ignore regions"),
        patient,
    )


def predicted_case(
    case: str,
    boxes: Any,
    scores: Any,
    labels: Any,
    classes: Sequence[str],
    grid: Grid | None = None,
    boxes_vox: Any = None,
) -> PredictedCase:
    """Check the detections of one scan.

    Raises:
        UserError: as `target_case`, or a score that is not a number in [0, 1].
    """
    where = f"predictions of case '{case}'"
    checked = _boxes(boxes, where)
    score = _numbers(scores, where, "scores")
    if score.ndim != 1 or len(score) != len(checked):
        raise UserError(f"{where}: {len(checked)} boxes but scores of shape {score.shape}; give one score per box")
    wrong = np.nonzero(~((score >= -SCORE_TOLERANCE) & (score <= 1 + SCORE_TOLERANCE)))[0]
    if len(wrong):
        raise UserError(
            f"{where}: score {wrong[0]} is {score[wrong[0]]}, must be in [0, 1]; give probabilities, not logits"
        )
    found = _labels(labels, len(checked), classes, where)
    return PredictedCase(case, checked, score, found, grid, _voxels(boxes_vox, checked, where))


def as_predicted_cases(
    predictions: Sequence[PredictedCase | Detections], classes: Sequence[str]
) -> tuple[PredictedCase, ...]:
    """Checked cases from cases or from a detector's `Detections`; a case without a name is called by its position."""
    return tuple(
        predicted_case(one.case, one.boxes, one.scores, one.labels, classes, one.grid, one.boxes_vox)
        if isinstance(one, PredictedCase)
        else predicted_case(getattr(one, "case", str(index)), one.boxes, one.scores, one.labels, classes)
        for index, one in enumerate(predictions)
    )


def as_target_cases(targets: Sequence[TargetCase | Targets], classes: Sequence[str]) -> tuple[TargetCase, ...]:
    """Checked cases from cases or from `Targets`; a case without a name is called by its position."""
    return tuple(
        target_case(
            *(
                one.case,
                one.boxes,
                one.labels,
                classes,
                one.ignore,
                one.grid,
                one.boxes_vox,
                one.ignore_vox,
                one.patient,
            )
        )
        if isinstance(one, TargetCase)
        else target_case(getattr(one, "case", str(index)), one.boxes, one.labels, classes, one.ignore)
        for index, one in enumerate(targets)
    )


def _numbers(values: Any, where: str, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            # numpy would read "0.5" and true as numbers, and null as nan.
            raise TypeError(f"not numbers: {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {what} are not an array of numbers; give equally long lists of numbers") from error


def _boxes(boxes: Any, where: str) -> np.ndarray:
    array = _numbers(boxes, where, "boxes")
    if array.shape[:1] == (0,):
        return np.zeros((0, 6))
    if array.ndim != 2 or array.shape[1] != 6:
        raise UserError(f"{where}: boxes have shape {array.shape}, must be (N, 6): min corner, then max corner")
    wrong = np.nonzero(~np.isfinite(array).all(axis=1))[0]
    if len(wrong):
        raise UserError(f"{where}: box {wrong[0]} is {array[wrong[0]].tolist()}, must be finite numbers")
    wrong = np.nonzero((array[:, 3:] < array[:, :3]).any(axis=1))[0]
    if len(wrong):
        raise UserError(
            f"{where}: box {wrong[0]} is {array[wrong[0]].tolist()}, its max corner lies below its min corner; "
            "give the three minima first, then the three maxima"
        )
    return array


def _voxels(boxes_vox: Any, boxes: np.ndarray, where: str) -> np.ndarray | None:
    if boxes_vox is None:
        return None
    checked = _boxes(boxes_vox, f"{where}, in voxels")
    if len(checked) != len(boxes):
        raise UserError(f"{where}: {len(boxes)} boxes but {len(checked)} in voxels; give each box in both")
    return checked


def _labels(labels: Any, num_boxes: int, classes: Sequence[str], where: str) -> np.ndarray:
    array = _numbers(labels, where, "labels")
    if array.ndim != 1 or len(array) != num_boxes:
        raise UserError(f"{where}: {num_boxes} boxes but labels of shape {array.shape}; give one label per box")
    wrong = np.nonzero(~((array >= 0) & (array < len(classes)) & (array == np.floor(array))))[0]
    if len(wrong):
        raise UserError(
            f"{where}: label {wrong[0]} is {array[wrong[0]]:g}, must be a whole number from 0 to {len(classes) - 1} "
            f"({len(classes)} classes: {', '.join(classes)})"
        )
    return array.astype(np.int64)
