"""Telling scans with objects from scans without: the highest score of a scan as its score."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.matching import Matches

CASE_THRESHOLD = 0.5
"""Highest score from which a scan is called positive where nobody says another."""


def case_level(matches: Matches, resampling: Resampling, threshold: float = CASE_THRESHOLD) -> dict[str, Any]:
    """Return AUROC and AUPRC of the highest score per scan, and how well scans are called; a scan is positive when it
    holds an object.

    A scan without detections has score 0. A detection in an ignore region that hits nothing does not count.

    Args:
        matches: all classes pooled; the first threshold decides what is a hit.
        resampling: of the intervals.
        threshold: highest score from which a scan is called positive.

    Returns:
        `auroc` (nan unless there are scans of both kinds), `auprc` (nan without a positive scan), `sensitivity` and
        `specificity` at the `threshold` (nan without scans of their kind), `intervals`, `num_positive`, `num_negative`.

    Raises:
        UserError: a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"case threshold {threshold:g}: must lie in [0, 1]")
    score = case_scores(matches)
    is_positive = matches.num_targets > 0
    is_called = score >= threshold

    def share(called: np.ndarray, of: np.ndarray, weights: np.ndarray) -> np.ndarray:
        num_scans = weights @ of.astype(float)
        with np.errstate(invalid="ignore"):
            result: np.ndarray = (weights @ (called & of).astype(float)) / np.where(num_scans > 0, num_scans, np.nan)
            return result

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "auroc": area_under_roc(score, is_positive, weights),
            "auprc": area_under_precision_recall(score, is_positive, weights),
            "sensitivity": share(is_called, is_positive, weights),
            "specificity": share(~is_called, ~is_positive, weights),
        }

    patients = matches.patients
    with_positive, with_negative = (int(patients.num_with(one)) for one in (is_positive, ~is_positive))
    num_behind = {
        "auroc": min(with_positive, with_negative),
        "auprc": with_positive,
        "sensitivity": with_positive,
        "specificity": with_negative,
    }
    values, intervals = resampling.estimate(metrics, patients, num_behind)
    counts = {"num_positive": int(is_positive.sum()), "num_negative": int((~is_positive).sum())}
    return {**values, "threshold": threshold, "intervals": intervals, **counts}


def case_scores(matches: Matches) -> np.ndarray:
    """Return highest score of the detections that count, per scan; 0 without any: (S,)."""
    score = np.zeros(len(matches.num_targets))
    counts = matches.is_hit[0] | matches.counts_always
    np.maximum.at(score, matches.scan[counts], matches.scores[counts])
    return score


def area_under_roc(score: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return probability that a positive scores above a negative, ties half (Hanley & McNeil, 1982).

    Args:
        score: (S,).
        is_positive: (S,) bool.
        weights: (R, S).

    Returns:
        (R,); nan where a replicate lacks positives or negatives.
    """
    positive, negative = np.nonzero(is_positive)[0], np.nonzero(~is_positive)[0]
    negative = negative[np.argsort(score[negative])]
    of_positive = weights[:, positive]
    num_below = np.zeros((len(weights), len(negative) + 1))  # negatives among the lowest 0, 1, ...
    np.cumsum(weights[:, negative], axis=1, out=num_below[:, 1:])
    below, up_to = (np.searchsorted(score[negative], score[positive], side) for side in ("left", "right"))
    num_above = ((num_below[:, below] + num_below[:, up_to]) / 2 * of_positive).sum(axis=1)
    pairs = of_positive.sum(axis=1) * num_below[:, -1]
    with np.errstate(invalid="ignore"):
        result: np.ndarray = num_above / np.where(pairs > 0, pairs, np.nan)
        return result


def area_under_precision_recall(
    score: np.ndarray, is_positive: np.ndarray, weights: np.ndarray, num_missed: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return sum over the scores, falling, of precision times gain in recall: the step function, without interpolation.

    Args:
        score: (N,).
        is_positive: (N,) bool.
        weights: (R, N).
        num_missed: (R,), positives without any score, which no threshold finds.

    Returns:
        (R,); nan where a replicate has no positive.
    """
    order = np.argsort(-score, kind="stable")
    weight, hit = weights[:, order], is_positive[order]
    ends = np.nonzero(np.diff(score[order], append=-np.inf))[0]  # last of each group of equal scores
    num_hits = np.cumsum(weight * hit, axis=1)[:, ends]
    num_all = np.cumsum(weight, axis=1)[:, ends]
    num_positive = (weight * hit).sum(axis=1) + num_missed
    gain = np.diff(num_hits, axis=1, prepend=0)
    area = (gain * num_hits / np.maximum(num_all, 1)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        result: np.ndarray = area / np.where(num_positive > 0, num_positive, np.nan)
        return result
