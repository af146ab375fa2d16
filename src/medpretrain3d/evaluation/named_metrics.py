"""Metrics that a study may be judged by, by short names: each on all scans and without each patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.average_precision import average_precision
from medpretrain3d.evaluation.average_recall import recall
from medpretrain3d.evaluation.bootstrap import CONFIDENCE
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.center_distance import JUST_INSIDE, closeness
from medpretrain3d.evaluation.data_set import MatchedScans, count_target_points, match_data_set
from medpretrain3d.evaluation.detection import (
    AP_IOUS,
    IOU_THRESHOLDS,
    MAP_IOUS,
    MAP_KEY,
    ap_key,
    froc_score_key,
    mean_ar_key,
)
from medpretrain3d.evaluation.froc import froc_curve
from medpretrain3d.evaluation.matching import MAX_DETECTIONS
from medpretrain3d.statistics import share_interval
from medpretrain3d.store.points import POINT_RADIUS_MM


@dataclass(frozen=True)
class NamedMetric:
    """A number in [0, 1] of a data set, the higher the better."""

    name: str
    """As documents and tables have it."""
    meaning: str
    kind: Literal["AP", "AR", "FROC"]
    ious: tuple[float, ...] = ()
    """Overlaps that hit, over which it is the mean; empty: a hit is a center within the radius of the object."""
    key: str | None = None
    """Its key in the result of `evaluate`; None where that does not have it."""

    def __str__(self) -> str:
        return self.name


_FROC = "mean sensitivity at 1/8 to 8 false positives per scan"
_AP = tuple(
    NamedMetric(f"AP{iou * 100:.0f}", f"average precision at IoU {iou:.2f}", "AP", (iou,), ap_key(iou))
    for iou in AP_IOUS
)
MAP = NamedMetric("mAP", "mean of the average precision over IoU 0.10 to 0.50", "AP", MAP_IOUS, MAP_KEY)
METRICS: Mapping[str, NamedMetric] = {
    one.name: one
    for one in (
        MAP,
        *_AP,
        NamedMetric("mAR", "mean recall over IoU 0.10 to 0.50", "AR", MAP_IOUS, mean_ar_key(MAX_DETECTIONS)),
        NamedMetric("FROC", f"{_FROC}, IoU 0.10", "FROC", (0.1,), froc_score_key(0.1)),
        NamedMetric("FROC50", f"{_FROC}, IoU 0.50", "FROC", (0.5,), froc_score_key(0.5)),
        NamedMetric("CPM", f"{_FROC}, center within the radius", "FROC"),
        NamedMetric("AP_center", "average precision, center within the radius", "AP"),
    )
}
AP10, AP50, FROC, AP_CENTER = (METRICS[name] for name in ("AP10", "AP50", "FROC", "AP_center"))


@dataclass(frozen=True)
class LeftOut:
    """A metric of a data set, and what it is without each patient."""

    value: float
    without: np.ndarray
    """(G,), without each patient or group of patients, see `leave_one_out_weights`."""
    num_patients_behind: int
    """Patients with an object."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the interval over patients, see `share_interval`."""
        return share_interval(self.value, self.without, confidence, self.num_patients_behind)


def metric_named(name: str) -> NamedMetric:
    """Return a metric by its name.

    Raises:
        UserError: there is none, with the nearest.
    """
    if name not in METRICS:
        raise UserError(f"got '{name}', wanted a metric: {', '.join(METRICS)}{did_you_mean(name, METRICS)}")
    return METRICS[name]


def without_each(
    metrics: Sequence[NamedMetric],
    predictions: Sequence[PredictedCase],
    targets: Sequence[TargetCase],
    classes: Sequence[str],
) -> dict[str, LeftOut]:
    """Return metrics on all scans and without each group of patients, by name; nan where one is undefined.

    Those of overlap are undefined where any object is a point.

    Raises:
        UserError: as `evaluate`.
    """
    ious = [iou for iou in IOU_THRESHOLDS if any(iou in one.ious for one in metrics)]
    has_points = bool(count_target_points(targets)[0])
    by_overlap = match_data_set(predictions, targets, classes, ious) if ious and not has_points else None
    by_center = None
    if has_points or not all(one.ious for one in metrics):
        by_center = match_data_set(predictions, targets, classes, [JUST_INSIDE], closeness("radius", POINT_RADIUS_MM))
    found = {}
    for metric in metrics:
        scans = by_overlap if metric.ious and not has_points else by_center
        assert scans is not None
        rows = [ious.index(iou) for iou in metric.ious] or [0]
        weights = np.concatenate([np.ones((1, scans.num_scans)), scans.patients.left_out()])
        is_undefined = metric.ious and has_points
        values = np.full(len(weights), np.nan) if is_undefined else _weighted(metric.kind, scans, rows, weights)
        found[metric.name] = LeftOut(float(values[0]), values[1:], scans.pooled.num_patients_with_objects)
    return found


def _weighted(kind: str, scans: MatchedScans, rows: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Return a metric under each weighting of the scans, (R,)."""
    if kind == "FROC":
        return np.asarray(froc_curve(scans.pooled.rows(rows), weights).mean(axis=(1, 2)))
    if kind == "AR":
        of_classes = np.stack([recall(one, weights, MAX_DETECTIONS) for one in scans.classes])
    else:
        of_classes = np.stack([average_precision(one, weights) for one in scans.classes])
    of_classes = of_classes[:, :, rows]  # (K, R, T)
    number = (~np.isnan(of_classes)).sum(axis=0)
    return np.asarray((np.nansum(of_classes, axis=0) / np.where(number > 0, number, np.nan)).mean(axis=1))
