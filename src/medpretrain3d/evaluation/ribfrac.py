"""RibFrac: fractures by the overlap of instance masks (Jin et al., 2020; Yang et al., 2024).

A finding hits the fracture of highest IoU if that is above 0.2. Of several findings on one fracture the best counts and
the others are ignored. Every scan counts. The curve is read as in the challenge's script
(`_sensitivity_at`). The script measures the union as a connected whole, which lets instances that touch share it; here
each instance has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.overlap import ScanOverlap
from medpretrain3d.evaluation.patients import Patients

IOU_THRESHOLD = 0.2
FALSE_POSITIVES = (0.5, 1.0, 2.0, 4.0, 8.0)
SCORE_STEPS = np.arange(0, 1, 0.01)
"""The thresholds of the challenge, as its script makes them: 0.35 is a last bit above the score 0.35 there."""
EPSILON = 1e-8
"""What the script adds to both numbers of a rate; so 1 in 2 scans is a little more than the rate 0.5, 2 in 1 a
little less than 2, and 1 in 1 just 1."""


def ribfrac(scans: Sequence[ScanOverlap], resampling: Resampling) -> dict[str, Any]:
    """Return sensitivity at 0.5, 1, 2, 4 and 8 false positives per scan, and their mean.

    Returns:
        `fp_per_scan`, `sensitivity`, `froc_score`, `intervals`, what was counted, `per_case`.

    Raises:
        UserError: no fracture in any scan.
    """
    matches = match(scans)
    if not matches.num_targets.any():
        raise UserError(f"none of the {len(scans)} scans has an object to find; check the targets")

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        sensitivity = _sensitivity_at(FALSE_POSITIVES, *_points(matches, weights))
        return {"sensitivity": sensitivity, "froc_score": sensitivity.mean(axis=1)}

    num_behind = dict.fromkeys(("sensitivity", "froc_score"), matches.num_patients_with_objects)
    values, intervals = resampling.estimate(metrics, matches.patients, num_behind)
    hits = np.bincount(matches.scan[matches.is_hit[0]], minlength=len(scans))
    return {
        "fp_per_scan": list(FALSE_POSITIVES),
        **values,
        "intervals": intervals,
        "num_cases": len(scans),
        "num_patients": matches.patients.num,
        "num_targets": int(matches.num_targets.sum()),
        "num_predictions": sum(len(one.scores) for one in scans),
        **resampling.facts(),
        "per_case": [
            {
                "case": one.case,
                "num_targets": one.num_targets,
                "num_predictions": len(one.scores),
                "num_hits": int(found),
            }
            for one, found in zip(scans, hits, strict=True)
        ],
    }


def match(scans: Sequence[ScanOverlap]) -> Matches:
    """Each fracture with its best finding, and the findings that hit none, scores at the steps of the challenge."""
    parts = []
    for one in scans:
        scores = SCORE_STEPS[np.maximum(np.searchsorted(SCORE_STEPS, one.scores, side="right") - 1, 0)]
        highest = one.iou.max(axis=1, initial=0.0)
        is_hit = highest > IOU_THRESHOLD
        fracture = one.iou.argmax(axis=1) if one.num_targets else np.zeros(len(scores), dtype=int)
        best = np.full(one.num_targets, -np.inf)
        np.maximum.at(best, fracture[is_hit], scores[is_hit])
        best = best[best > -np.inf]
        joined = np.concatenate([best, scores[~is_hit]])
        order = np.argsort(-joined, kind="stable")
        is_found = np.arange(len(joined)) < len(best)
        parts.append(
            Matches(joined[order], np.zeros(len(order), dtype=int), is_found[None, order], np.array([one.num_targets]))
        )
    return join_scans(parts, Patients.of(scans).of_scan)


def _points(matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positives per scan and sensitivity at the rising thresholds: both (R, 100), nan without objects."""

    def found(chosen: np.ndarray) -> np.ndarray:
        """Return weighted number of the chosen findings at or above each threshold."""
        of_scan = np.zeros((weights.shape[1], len(SCORE_STEPS)))
        np.add.at(of_scan, (matches.scan[chosen], np.searchsorted(SCORE_STEPS, matches.scores[chosen])), 1)
        result: np.ndarray = weights @ of_scan[:, ::-1].cumsum(axis=1)[:, ::-1]
        return result

    is_hit = matches.is_hit[0]
    num_targets = (weights @ matches.num_targets)[:, None]
    rate = (found(~is_hit) + EPSILON) / (weights.sum(axis=1, keepdims=True) + EPSILON)
    # Without the script's epsilon here, which only makes 1e-8 of a sensitivity of 0.
    return rate, np.where(num_targets > 0, found(is_hit) / np.maximum(num_targets, 1), np.nan)


def _sensitivity_at(rates: Sequence[float], rate: np.ndarray, sensitivity: np.ndarray) -> np.ndarray:
    """The points (R, P), in rising thresholds, read at some rates as the challenge's script does: (R, len(rates)).

    Between the nearest points at or below and at or above a rate it is linear. Of points of one rate, the one of the
    lowest sensitivity counts from below and the one of the highest from above; at a rate that is met, the lowest. Below
    the first point it is 0, beyond the last one the highest sensitivity. (The script sorts the points by rate and takes
    the ends; its sort leaves open the order of points of one rate, and this is the one that keeps them as they were.)
    """
    result = np.zeros((len(rate), len(rates)))
    for column, wanted in enumerate(rates):
        below = np.where(rate <= wanted, rate, -np.inf).max(axis=1, keepdims=True)
        above = np.where(rate >= wanted, rate, np.inf).min(axis=1, keepdims=True)
        low = np.where(rate == below, sensitivity, np.inf).min(axis=1)
        high = np.where(rate == above, sensitivity, -np.inf).max(axis=1)
        with np.errstate(invalid="ignore"):
            share = (wanted - below[:, 0]) / (above[:, 0] - below[:, 0] + EPSILON)
            between = low + (high - low) * share
        beyond = np.where(np.isinf(above[:, 0]), sensitivity.max(axis=1), between)
        result[:, column] = np.where(np.isinf(below[:, 0]), 0.0, beyond)
    result[np.isnan(sensitivity).any(axis=1)] = np.nan
    return result
