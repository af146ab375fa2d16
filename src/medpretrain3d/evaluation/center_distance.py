"""Boxes by the distance of their centres, for lesions whose borders nobody agrees on.

Three criteria: `radius`, the centres are closer than half the object's longest edge (LUNA16's rule for boxes); `box`,
the detection's centre lies inside the object's box; a number, the centres are closer than so many mm. All are strict.
A point has no size; its radius is `POINT_RADIUS_MM`, that of a nodule of unknown diameter in LUNA16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.boxes import Detections, Targets, box_center, box_size, is_point
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.average_precision import average_precision
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.case_level import CASE_THRESHOLD, case_level
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.data_set import MatchedScans, class_key, count_target_points, match_data_set
from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN, froc_curve
from medpretrain3d.evaluation.matching import MAX_DETECTIONS, Closeness
from medpretrain3d.evaluation.operating_points import SCORES, operating_points
from medpretrain3d.store.points import POINT_RADIUS_MM, refuse_points

Criterion = str | float
JUST_INSIDE = float(np.nextafter(0, 1))
"""The least closeness of a hit: above 0, since all criteria are strict."""
CENTER_KEYS = ("AP", "FROC_score", "FROC_curve")
"""Of `center_metrics`, over all classes."""


def closeness(criterion: Criterion, point_radius_mm: float = 0.0) -> Closeness:
    """Return the closeness function of a hit criterion: 1 for one center, falling to 0 where it is just missed.

    Args:
        criterion: see the module.
        point_radius_mm: radius of a point, which has no size; 0 for never to be hit by its radius.

    Raises:
        UserError: no such criterion, or a distance that is not above 0.
    """
    if criterion not in ("radius", "box") and not (isinstance(criterion, float) and criterion > 0):
        raise UserError(f"hit criterion '{criterion}': must be 'radius', 'box' or a distance in mm above 0, e.g. 5")

    def close(boxes: np.ndarray, target_boxes: np.ndarray) -> np.ndarray:
        offset = box_center(boxes)[:, None] - box_center(target_boxes)[None]  # (N, G, 3)
        half_extent = box_size(target_boxes) / 2  # (G, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            if criterion == "box":
                share = (np.abs(offset) / half_extent).max(axis=2)
            else:
                limit = half_extent.max(axis=1) if criterion == "radius" else float(criterion)
                if criterion == "radius":
                    limit = np.where(is_point(target_boxes), point_radius_mm, limit)
                share = np.linalg.norm(offset, axis=2) / limit
        result: np.ndarray = 1 - np.nan_to_num(
            share, nan=np.inf, posinf=np.inf
        )  # an object without extent is never hit
        return result

    return close


def center(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    criterion: Criterion = "radius",
    resampling: Resampling | None = None,
    scores: Sequence[float] = SCORES,
    case_threshold: float = CASE_THRESHOLD,
) -> dict[str, Any]:
    """AP and FROC where a hit is a matter of distance; in falling score each detection takes the closest free object.

    Args:
        predictions: one entry per scan, boxes in mm.
        targets: the objects of the same scans in the same order.
        classes: name of each label.
        criterion: "radius", "box", or a distance in mm; points have no box.
        resampling: of the intervals.
        scores: of the operating points.
        case_threshold: highest score from which a scan is called positive.

    Returns:
        `AP` (mean over the classes with objects), `<class>_AP`, `FROC_score`, `FROC_curve` (all classes pooled, linear
        between two thresholds), `intervals`, `case_level`, `operating_points`, `calibration`, `per_case`, and what was
        counted.

    Raises:
        UserError: as `evaluate`, no such criterion, or points and the criterion "box".
    """
    resampling = resampling or Resampling()
    scans = match_centers(predictions, targets, classes, criterion)
    values, intervals = resampling.estimate(
        lambda weights: center_metrics(scans, weights), scans.patients, scans.num_patients_behind(CENTER_KEYS)
    )
    return {
        **values,
        **scans.facts(),
        "criterion": criterion,
        "false_positives_per_scan": list(FALSE_POSITIVES_PER_SCAN),
        **resampling.facts(),
        "intervals": intervals,
        "case_level": case_level(scans.pooled, resampling, case_threshold),
        "operating_points": operating_points(scans.pooled, resampling, scores),
        "calibration": calibration(scans.pooled, resampling),
        "per_case": scans.case_scores([0]),
    }


def match_centers(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    criterion: Criterion = "radius",
    max_detections: int = MAX_DETECTIONS,
) -> MatchedScans:
    """Match every scan of a data set by the distance of centers; arguments and errors as `center`."""
    if criterion == "box":
        refuse_points(*count_target_points(targets), "the criterion 'box'", "score by --hit radius or a distance in mm")
    close = closeness(criterion, POINT_RADIUS_MM)
    return match_data_set(predictions, targets, classes, [JUST_INSIDE], close, max_detections)


def match_objects(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    iou: float,
    max_detections: int = MAX_DETECTIONS,
    is_by_distance: bool = False,
) -> MatchedScans:
    """Match every scan at one overlap, or where any object is a point by the distance of centers in mm.

    Of each class the best `max_detections` of a scan count. With `is_by_distance` boxes are matched by it too.

    Raises:
        UserError: as `match_data_set`.
    """
    if is_by_distance or count_target_points(targets)[0]:
        return match_centers(predictions, targets, classes, max_detections=max_detections)
    return match_data_set(predictions, targets, classes, (iou,), max_detections=max_detections)


def hit_rule(targets: Sequence[TargetCase | Targets], iou: float, is_by_distance: bool = False) -> dict[str, Any]:
    """Return what decides a hit in `match_objects`, as results state it: `iou`, or of distances `criterion`."""
    return {"criterion": "radius"} if is_by_distance or count_target_points(targets)[0] else {"iou": iou}


def mean_center_precision(
    predictions: Sequence[PredictedCase | Detections], targets: Sequence[TargetCase | Targets], classes: Sequence[str]
) -> float:
    """The AP of `center` by the radius and nothing else, for a search that scores many ways; nan without objects."""
    scans = match_centers(predictions, targets, classes)
    return float(center_metrics(scans, np.ones((1, scans.num_scans)))["AP"][0])


def center_metrics(scans: MatchedScans, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the numbers of `center` that have intervals, for weights of scans (R, S): (R,) each, the curve (R, 7)."""
    ap = {name: average_precision(one, weights)[:, 0] for name, one in zip(scans.names, scans.classes, strict=True)}
    stacked = np.stack(list(ap.values()))
    number = (~np.isnan(stacked)).sum(axis=0)
    curve = froc_curve(scans.pooled, weights)[:, 0]
    return {
        "AP": np.nansum(stacked, axis=0) / np.where(number > 0, number, np.nan),
        **{class_key(name, "AP"): value for name, value in ap.items()},
        "FROC_score": curve.mean(axis=1),
        "FROC_curve": curve,
    }
