"""The scores of a set of predictions: AP per class and IoU, mAP, FROC, each with a bootstrap interval over scans.

Keys and numbers are those of nnDetection v0.1, with one exception: a class without any object has no AP (nan) and is
left out of the means, where nnDetection counts it as -1. `compat="nndetection"` does the same as nnDetection.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.average_precision import average_precision
from medpretrain3d.evaluation.bootstrap import (
    CONFIDENCE,
    NUM_BOOTSTRAP,
    check_resampling,
    percentile_interval,
    scan_weights,
)
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase, as_predicted_cases, as_target_cases
from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN, froc_curve
from medpretrain3d.evaluation.matching import MAX_DETECTIONS, Matches, match_scans, pool_classes

Compat = Literal["none", "nndetection"]

IOU_THRESHOLDS = tuple(step / 100 for step in (10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90))
AP_IOUS = tuple(step / 10 for step in range(1, 10))
"""IoU thresholds reported one by one."""
MAP_IOUS = tuple(iou for iou in IOU_THRESHOLDS if iou <= 0.5)
"""IoU thresholds the mAP is averaged over, 0.1:0.05:0.5."""

MAP_KEY = f"mAP_IoU_0.10_0.50_0.05_MaxDet_{MAX_DETECTIONS}"


def ap_key(iou: float) -> str:
    """The key of the average precision at one IoU."""
    return f"AP_IoU_{iou:.2f}_MaxDet_{MAX_DETECTIONS}"


def froc_score_key(iou: float) -> str:
    """The key of the mean sensitivity over the seven rates of false positives at one IoU."""
    return f"FROC_score_IoU_{iou:.2f}"


def froc_curve_key(iou: float) -> str:
    """The key of the seven sensitivities at one IoU."""
    return f"FROC_curve_IoU_{iou:.2f}"


def evaluate(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    compat: Compat = "none",
) -> dict[str, Any]:
    """Score the detections of whole scans.

    Args:
        predictions: one entry per scan.
        targets: the objects of the same scans in the same order, boxes in the frame of the predictions.
        classes: name of each label.
        num_bootstrap: replicates behind each interval; 0 for none.
        seed: of the resampling.
        confidence: of the intervals.
        compat: "nndetection" gives a class without objects an AP of -1 and lets it enter the means.

    Returns:
        The metrics by nnDetection's keys (`AP_IoU_0.10_MaxDet_100`, `<class>_AP_...`, `mAP_IoU_...`, `FROC_score_...`,
        `FROC_curve_...`), and `intervals` by the same keys (a pair, or a pair per point of a curve),
        `classes_without_targets`, `num_cases`, `num_targets`, `num_predictions`, `num_bootstrap`, `seed`, `confidence`,
        `false_positives_per_scan`, `per_case`. A FROC entry is nan where detections exist but none of them hits, as in
        nnDetection; the sensitivity is then 0. `per_case` is explained at `case_scores`.

    Raises:
        UserError: the lengths differ, there is no scan, a case is malformed, or the resampling settings make no sense.
    """
    check_resampling(num_bootstrap, seed, confidence)
    scans = match_data_set(predictions, targets, classes)
    estimate = metrics(scans, np.ones((1, scans.num_scans)), compat)
    values: dict[str, Any] = {name: value[0].tolist() for name, value in estimate.items()}
    for iou in scans.ious_without_hit():
        values[froc_score_key(iou)] = float("nan")
        values[froc_curve_key(iou)] = [float("nan")] * len(FALSE_POSITIVES_PER_SCAN)

    intervals: dict[str, Any] = {}
    if num_bootstrap:
        replicates = bootstrap_metrics(scans, num_bootstrap, seed, compat)
        for name, value in replicates.items():
            interval = percentile_interval(value.reshape(num_bootstrap, -1), confidence)  # (2, 1) or (2, rates)
            interval[:, np.isnan(np.atleast_1d(values[name]))] = np.nan
            intervals[name] = interval[:, 0].tolist() if value.ndim == 1 else interval.T.tolist()
    return {
        **values,
        "classes": list(classes),
        "classes_without_targets": [
            name for name, one in zip(classes, scans.classes, strict=True) if not one.num_targets.any()
        ],
        "num_cases": scans.num_scans,
        "num_targets": {name: int(one.num_targets.sum()) for name, one in zip(classes, scans.classes, strict=True)},
        "num_predictions": sum(len(found.scores) for found in scans.predictions),
        "false_positives_per_scan": list(FALSE_POSITIVES_PER_SCAN),
        "compat": compat,
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        "confidence": confidence,
        "intervals": intervals,
        "per_case": case_scores(scans),
    }


@dataclass(frozen=True)
class MatchedScans:
    """A data set whose detections have met its objects; everything else is counting."""

    predictions: Sequence[PredictedCase]
    targets: Sequence[TargetCase]
    names: Sequence[str]
    classes: list[Matches]
    pooled: Matches

    @property
    def num_scans(self) -> int:
        """Scans, with and without objects."""
        return len(self.targets)

    def ious_without_hit(self) -> list[float]:
        """The reported IoU thresholds at which detections exist and none of them hits."""
        if not len(self.pooled.scores):
            return []
        is_hit = self.pooled.is_hit[_rows(AP_IOUS)]
        return [iou for iou, of_iou in zip(AP_IOUS, is_hit, strict=True) if not of_iou.any()]


def match_data_set(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
) -> MatchedScans:
    """Check the cases and match every scan once.

    Raises:
        UserError: the lengths differ, there is no scan, or a case is malformed.
    """
    if len(predictions) != len(targets):
        raise UserError(f"{len(predictions)} predicted cases but {len(targets)} target cases; give one per scan")
    if not targets:
        raise UserError("no case to evaluate; give at least one scan")
    found, wanted = as_predicted_cases(predictions, classes), as_target_cases(targets, classes)
    matches = match_scans(found, wanted, len(classes), np.array(IOU_THRESHOLDS))
    return MatchedScans(found, wanted, classes, matches, pool_classes(matches))


def metrics(scans: MatchedScans, weights: np.ndarray, compat: Compat = "none") -> dict[str, np.ndarray]:
    """Every metric under each weighting of the scans.

    Args:
        scans: the matched data set of S scans.
        weights: (R, S), how often each scan counts.
        compat: see `evaluate`.

    Returns:
        By key, (R,) for a scalar and (R, 7) for a FROC curve; nan where a replicate leaves the metric undefined. A
        replicate without objects of a class leaves this class out of its means.
    """
    per_class = np.stack([average_precision(one, weights) for one in scans.classes])  # (K, R, T)
    if compat == "nndetection":
        per_class[[not one.num_targets.any() for one in scans.classes]] = -1.0
    over_classes = _mean(per_class, axis=0)  # (R, T)
    result = {MAP_KEY: over_classes[:, _rows(MAP_IOUS)].mean(axis=1)}
    for name, ap in zip(scans.names, per_class, strict=True):
        result[f"{name}_{MAP_KEY}"] = ap[:, _rows(MAP_IOUS)].mean(axis=1)
    for iou, row in zip(AP_IOUS, _rows(AP_IOUS), strict=True):
        result[ap_key(iou)] = over_classes[:, row]
        for name, ap in zip(scans.names, per_class, strict=True):
            result[f"{name}_{ap_key(iou)}"] = ap[:, row]
    pooled = scans.pooled
    reported = Matches(pooled.scores, pooled.scan, pooled.is_hit[_rows(AP_IOUS)], pooled.num_targets)
    curves = froc_curve(reported, weights)  # (R, T, rates)
    for row, iou in enumerate(AP_IOUS):
        result[froc_score_key(iou)] = curves[:, row].mean(axis=1)
        result[froc_curve_key(iou)] = curves[:, row]
    return result


def bootstrap_metrics(
    scans: MatchedScans, num_bootstrap: int, seed: int, compat: Compat = "none"
) -> dict[str, np.ndarray]:
    """Every metric on each of `num_bootstrap` resampled sets of scans, keys and shapes as in `metrics`."""
    weights = scan_weights(scans.num_scans, num_bootstrap, seed)
    # 500 at a time: 10,000 replicates of 5,000 hits would need 400 MB per temporary.
    parts = [metrics(scans, weights[start : start + 500], compat) for start in range(0, num_bootstrap, 500)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def case_scores(scans: MatchedScans) -> list[dict[str, Any]]:
    """One entry per scan: `case`, `num_targets`, `num_predictions`, `num_hits` at IoU 0.1, and `score` in [0, 1].

    The score of a scan with objects is the average precision of this scan alone, all classes pooled, averaged over the
    IoUs of the mAP. The score of a scan without objects is 1 minus its highest detection score: 1 where nothing was
    found, 0 where something was found with certainty.
    """
    ap = average_precision(scans.pooled, np.eye(scans.num_scans))[:, _rows(MAP_IOUS)].mean(axis=1)  # (S,)
    hits = np.bincount(scans.pooled.scan[scans.pooled.is_hit[0]], minlength=scans.num_scans)
    return [
        {
            "case": found.case,
            "num_targets": len(wanted.labels),
            "num_predictions": len(found.scores),
            "num_hits": int(num_hits),
            "score": float(score) if len(wanted.labels) else 1.0 - float(found.scores.max(initial=0.0)),
        }
        for found, wanted, score, num_hits in zip(scans.predictions, scans.targets, ap, hits, strict=True)
    ]


def _rows(ious: Sequence[float]) -> list[int]:
    return [IOU_THRESHOLDS.index(iou) for iou in ious]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class has objects: the mean is nan, as it should be
        return np.asarray(np.nanmean(values, axis=axis))
