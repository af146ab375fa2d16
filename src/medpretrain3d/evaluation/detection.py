"""Boxes by overlap: AP and mAP, AR, FROC, each with an interval over patients.

Keys and numbers are those of nnDetection v0.1 and of MONAI, with one exception: a class without any object has no AP
(nan) and is left out of the means, where both count it as -1. `compat` names the one to follow; then the mean recall
`mAR_IoU_0.10_0.50_0.05` is, as there, over all IoUs of the program's list and not over those in its name. "coco"
divides recall in float64, as pycocotools does, where the others do in float32, as nnDetection (`RecallType`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation.average_precision import RecallType, average_precision
from medpretrain3d.evaluation.average_recall import recall
from medpretrain3d.evaluation.bootstrap import CONFIDENCE, NUM_BOOTSTRAP, Resampling
from medpretrain3d.evaluation.box_fit import box_fit
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.case_level import CASE_THRESHOLD, case_level
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.confusion import CONFUSION_SCORE, confusion
from medpretrain3d.evaluation.data_set import MatchedScans, class_key, match_data_set
from medpretrain3d.evaluation.error_analysis import FOREGROUND_IOU, error_analysis
from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN, froc_curve
from medpretrain3d.evaluation.matching import MAX_DETECTIONS
from medpretrain3d.evaluation.operating_points import SCORES, operating_points
from medpretrain3d.evaluation.precision_recall import precision_recall
from medpretrain3d.evaluation.size_strata import size_strata

Compat = Literal["none", "nndetection", "monai", "coco"]

IOU_THRESHOLDS = tuple(step / 100 for step in (10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 75, 80, 90))
AP_IOUS = tuple(step / 100 for step in (10, 20, 30, 40, 50, 60, 70, 75, 80, 90))
"""IoU thresholds reported one by one."""
MAP_IOUS = tuple(iou for iou in IOU_THRESHOLDS if iou <= 0.5)
"""IoU thresholds the means are taken over, 0.1:0.05:0.5."""
MEAN_AR_IOUS: dict[str, tuple[float, ...]] = {
    "none": MAP_IOUS,
    "nndetection": tuple(iou for iou in IOU_THRESHOLDS if iou != 0.75),
    "monai": (*MAP_IOUS, 0.75),
    "coco": MAP_IOUS,
}
FROC_IOUS = tuple(iou for iou in AP_IOUS if iou != 0.75)
STRATA_IOUS = (0.1, 0.5)
FIT_IOU = 0.1
"""Of the hits whose boxes are looked at axis by axis."""
AR_MAX_DETECTIONS = (1, 5, 100)
"""Detections per scan and class that may hit in the average recall (MONAI's list)."""

MAP_KEY = f"mAP_IoU_0.10_0.50_0.05_MaxDet_{MAX_DETECTIONS}"


def ap_key(iou: float) -> str:
    """Return the key of the average precision at one IoU."""
    return f"AP_IoU_{iou:.2f}_MaxDet_{MAX_DETECTIONS}"


def ar_key(iou: float) -> str:
    """Return the key of the recall at one IoU."""
    return f"AR_IoU_{iou:.2f}_MaxDet_{MAX_DETECTIONS}"


def mean_ar_key(max_detections: int) -> str:
    """Return the key of the recall averaged over the IoUs of the mAP."""
    return f"mAR_IoU_0.10_0.50_0.05_MaxDet_{max_detections}"


def froc_score_key(iou: float) -> str:
    """Return the key of the mean sensitivity over the seven rates of false positives at one IoU."""
    return f"FROC_score_IoU_{iou:.2f}"


def froc_curve_key(iou: float) -> str:
    """Return the key of the seven sensitivities at one IoU."""
    return f"FROC_curve_IoU_{iou:.2f}"


COCO_KEYS = (MAP_KEY, *map(ap_key, AP_IOUS), *map(mean_ar_key, AR_MAX_DETECTIONS), *map(ar_key, AP_IOUS))
"""Of `coco_metrics`, over all classes."""
FROC_KEYS = (*map(froc_score_key, FROC_IOUS), *map(froc_curve_key, FROC_IOUS))
"""Of `froc_metrics`."""
LEFT_OUT_KEYS = (
    *(MAP_KEY, *map(ap_key, AP_IOUS), mean_ar_key(MAX_DETECTIONS)),
    *map(froc_score_key, STRATA_IOUS),
)
"""Metrics that a result has without each patient, too: a study is judged by one of them."""


def evaluate(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    compat: Compat = "none",
    size_edges_mm: Sequence[float] = (),
    scores: Sequence[float] = SCORES,
    case_threshold: float = CASE_THRESHOLD,
    confusion_score: float = CONFUSION_SCORE,
) -> dict[str, Any]:
    """Return score the detections of whole scans.

    A detection that hits no object but whose centre lies in an ignore region of its scan is ignored.

    Args:
        predictions: one entry per scan.
        targets: the objects of the same scans in the same order, boxes in the frame of the predictions.
        classes: name of each label.
        num_bootstrap: 0 for no intervals, which cost an evaluation without each patient.
        seed: kept in the result; the intervals are not drawn.
        confidence: of the intervals.
        compat: "nndetection" and "monai" give a class without objects -1 and let it enter the means of AP; "coco"
            divides recall in float64.
        size_edges_mm: diameters between the size strata, for boxes in mm; none for no strata.
        scores: of the operating points.
        case_threshold: highest score from which a scan is called positive.
        confusion_score: least score of a detection in the confusion of classes.

    Returns:
        The metrics by nnDetection's and MONAI's keys (`AP_IoU_0.10_MaxDet_100`, `<class>_AP_...`, `mAP_IoU_...`,
        `AR_...`, `mAR_...`, `FROC_score_...`, `FROC_curve_...`), and `intervals` by the same keys (a pair, or a pair
        per point of a curve), `left_out` (of `LEFT_OUT_KEYS`, `value` and `without` each group of patients), what
        `MatchedScans.facts` and `Resampling.facts` count, `false_positives_per_scan`, `per_case` (see
        `MatchedScans.case_scores`), and at IoU 0.1 `case_level`, `confusion`, `operating_points`, `calibration`,
        `box_fit`; at 0.1 and 0.5 `precision_recall`; at 0.5 `error_analysis`; `size_strata` where edges are given. A
        FROC entry is nan where detections exist but none of them hits, as in nnDetection; the sensitivity is then 0.

    Raises:
        UserError: the lengths differ, there is no scan, a case is malformed, or the resampling settings make no sense.
    """
    resampling = Resampling(num_bootstrap, seed, confidence)
    scans = match_data_set(predictions, targets, classes, IOU_THRESHOLDS)
    values, intervals, without = resampling.estimate_and_left_out(
        lambda weights: metrics(scans, weights, compat),
        scans.patients,
        scans.num_patients_behind((*COCO_KEYS, *FROC_KEYS)),
    )
    left_out = {
        key: {"value": values[key], "without": without[key].tolist()} for key in LEFT_OUT_KEYS if key in without
    }
    for iou in ious_without_hit(scans):
        score, curve, num_rates = froc_score_key(iou), froc_curve_key(iou), len(FALSE_POSITIVES_PER_SCAN)
        values |= {score: np.nan, curve: [np.nan] * num_rates}
        if intervals:
            intervals |= {score: [np.nan] * 2, curve: [[np.nan] * 2] * num_rates}
    recall_type = _recall_type(compat)
    rows = {iou: IOU_THRESHOLDS.index(iou) for iou in STRATA_IOUS}
    strata = {"size_strata": size_strata(scans, resampling, rows, size_edges_mm, recall_type)} if size_edges_mm else {}
    return {
        **values,
        **scans.facts(),
        "false_positives_per_scan": list(FALSE_POSITIVES_PER_SCAN),
        "compat": compat,
        **resampling.facts(),
        "intervals": intervals,
        "left_out": left_out,
        **strata,
        "case_level": case_level(scans.pooled, resampling, case_threshold),
        "confusion": confusion(scans, confusion_score),
        "operating_points": operating_points(scans.pooled, resampling, scores),
        "calibration": calibration(scans.pooled, resampling),
        "precision_recall": precision_recall(scans, resampling, rows),
        "error_analysis": error_analysis(scans, IOU_THRESHOLDS.index(FOREGROUND_IOU), recall_type=recall_type),
        "box_fit": box_fit(scans, IOU_THRESHOLDS.index(FIT_IOU), FIT_IOU),
        "per_case": scans.case_scores(_rows(MAP_IOUS), recall_type),
    }


def mean_average_precision(
    predictions: Sequence[PredictedCase | Detections], targets: Sequence[TargetCase | Targets], classes: Sequence[str]
) -> float:
    """The mAP of `evaluate` and nothing else, for a search that scores many ways of prediction; nan without objects.

    Raises:
        UserError: as `evaluate`.
    """
    scans = match_data_set(predictions, targets, classes, MAP_IOUS)
    each_once = np.ones((1, scans.num_scans))
    return float(_mean(np.stack([average_precision(one, each_once)[0] for one in scans.classes])).mean())


def metrics(scans: MatchedScans, weights: np.ndarray, compat: Compat = "none") -> dict[str, np.ndarray]:
    """Return every metric under each weighting of the scans: `coco_metrics` and `froc_metrics`."""
    return {**coco_metrics(scans, weights, compat), **froc_metrics(scans, weights)}


def coco_metrics(scans: MatchedScans, weights: np.ndarray, compat: Compat = "none") -> dict[str, np.ndarray]:
    """Return AP, mAP, AR and mAR, over all classes and of each.

    Args:
        scans: the matched data set of S scans.
        weights: (R, S), how often each scan counts.
        compat: see `evaluate`.

    Returns:
        By key (R,), nan where a replicate leaves the metric undefined. A replicate without objects of a class leaves
        this class out of its means.
    """
    is_absent = [not one.num_targets.any() for one in scans.classes]
    is_absent_counted = compat in ("nndetection", "monai")
    ap = np.stack([average_precision(one, weights, _recall_type(compat)) for one in scans.classes])  # (K, R, T)
    if is_absent_counted:
        ap[is_absent] = -1.0
    result: dict[str, np.ndarray] = {}

    def report(key: str, per_class: np.ndarray, mean: np.ndarray) -> None:
        result[key] = np.full_like(mean, -1.0) if all(is_absent) and is_absent_counted else mean
        for name, value, absent in zip(scans.names, per_class, is_absent, strict=True):
            result[class_key(name, key)] = np.full_like(value, -1.0) if absent and is_absent_counted else value

    over_classes = _mean(ap)  # (R, T)
    report(MAP_KEY, ap[:, :, _rows(MAP_IOUS)].mean(axis=2), over_classes[:, _rows(MAP_IOUS)].mean(axis=1))
    for iou, row in zip(AP_IOUS, _rows(AP_IOUS), strict=True):
        report(ap_key(iou), ap[:, :, row], over_classes[:, row])
    for max_detections in AR_MAX_DETECTIONS:
        ar = np.stack([recall(one, weights, max_detections) for one in scans.classes])  # (K, R, T)
        mean_ar = ar[:, :, _rows(MEAN_AR_IOUS[compat])].mean(axis=2)
        report(mean_ar_key(max_detections), mean_ar, _mean(mean_ar))
    for iou, row in zip(AP_IOUS, _rows(AP_IOUS), strict=True):
        report(ar_key(iou), ar[:, :, row], _mean(ar[:, :, row]))
    return result


def froc_metrics(scans: MatchedScans, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean sensitivity (R,) and the seven sensitivities (R, 7) at each IoU, all classes pooled."""
    result: dict[str, np.ndarray] = {}
    curves = froc_curve(scans.pooled.rows(_rows(FROC_IOUS)), weights)  # (R, T, rates)
    for row, iou in enumerate(FROC_IOUS):
        result[froc_score_key(iou)] = curves[:, row].mean(axis=1)
        result[froc_curve_key(iou)] = curves[:, row]
    return result


def ious_without_hit(scans: MatchedScans) -> list[float]:
    """Return the IoU thresholds of the FROC at which detections exist and none of them hits."""
    if not len(scans.pooled.scores):
        return []
    is_hit = scans.pooled.is_hit[_rows(FROC_IOUS)]
    return [iou for iou, of_iou in zip(FROC_IOUS, is_hit, strict=True) if not of_iou.any()]


def _recall_type(compat: Compat) -> RecallType:
    return np.float64 if compat == "coco" else np.float32


def _rows(ious: Sequence[float]) -> list[int]:
    return [IOU_THRESHOLDS.index(iou) for iou in ious]


def _mean(values: np.ndarray) -> np.ndarray:
    """Return mean over the classes, axis 0, without those that are nan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class has objects: the mean is nan, as it should be
        return np.asarray(np.nanmean(values, axis=0))
