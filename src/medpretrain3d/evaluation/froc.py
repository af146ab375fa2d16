"""Free-response ROC: sensitivity at given numbers of false positives per scan, for many weightings of the scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from medpretrain3d.evaluation.matching import Matches
from medpretrain3d.evaluation.weightings import blocks

FALSE_POSITIVES_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)

PointReading = Literal["nearest", "last_below", "first_above"]
"""How a curve of points is read where it has none: the nearest point, the last at or below, the first at or above."""


def froc_curve(matches: Matches, weights: np.ndarray, rates: Sequence[float] = FALSE_POSITIVES_PER_SCAN) -> np.ndarray:
    """Return sensitivity at each rate of false positives per scan, over all scans, also those without objects.

    Lowering the score threshold draws the curve; detections of equal score enter together, and between two thresholds
    the curve is linear (nnDetection's reading). Beyond its last point it stays level.

    Args:
        matches: one class or all classes pooled, T thresholds, S scans.
        weights: (R, S), how often each scan counts in each replicate.
        rates: false positives per scan.

    Returns:
        (R, T, len(rates)); nan in a replicate without objects.
    """
    ranked = matches.ranked()
    parts = [_froc_curve(ranked, block, rates) for block in blocks(weights, len(ranked.scores))]
    return np.concatenate(parts)


def _froc_curve(ranked: Matches, weights: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    num_scans = weights.sum(axis=1, keepdims=True)  # (R, 1)
    num_targets = weights @ ranked.num_targets  # (R,)
    group, first, end = _groups(ranked.scores)
    at = np.unique(group[ranked.is_hit.any(axis=0)])  # groups of equal score that hold a hit, (P,)
    positions = np.concatenate([first[at], end[at], [len(group)]])
    counts = ranked.counts_before(weights, ranked.counts_always, positions)
    num_before, num_after, num_all = np.split(counts, [len(at), 2 * len(at)], axis=1)  # (R, P), (R, P), (R, 1)

    def in_groups(chosen: np.ndarray) -> np.ndarray:
        """Return weighted number of the chosen detections in each group with a hit: (R, P)."""
        before, after = np.split(ranked.counts_before(weights, chosen, positions[:-1]), 2, axis=1)
        return np.asarray(after - before)

    curve = np.zeros((len(weights), len(ranked.is_hit), len(rates)))
    for row, is_hit in enumerate(ranked.is_hit):
        hits = in_groups(is_hit)
        right = hits if ranked.is_ignorable is None else in_groups(is_hit & ranked.counts_always)
        right_after = np.cumsum(right, axis=1)
        num_false = num_all - right.sum(axis=1, keepdims=True)
        rate_before = _per_scan(num_before - (right_after - right), num_false, num_scans)
        rate_after = _per_scan(num_after - right_after, num_false, num_scans)
        for column, rate in enumerate(rates):
            curve[:, row, column] = (hits * _share_reached(rate, rate_before, rate_after)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return curve / np.where(num_targets > 0, num_targets, np.nan)[:, None, None]


def froc_points(matches: Matches, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the operating points themselves, one per distinct score and (0, 0) before them.

    Args:
        matches: one threshold, S scans.
        weights: (R, S).

    Returns:
        False positives per scan and sensitivity, both (R, P), the highest score first.
    """
    ranked = matches.ranked()
    _, _, end = _groups(ranked.scores)
    weight = weights[:, ranked.scan]  # (R, N)
    is_hit = ranked.is_hit[0]
    num_hits = np.cumsum(weight * is_hit, axis=1)[:, end - 1]
    num_false = np.cumsum(weight * (~is_hit & ranked.counts_always), axis=1)[:, end - 1]
    num_targets = (weights @ ranked.num_targets)[:, None]
    rate = _per_scan(num_false, num_false[:, -1:], weights.sum(axis=1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = np.where(num_targets > 0, num_hits / num_targets, np.nan)
    start = np.where(num_targets > 0, 0.0, np.nan)
    return np.pad(rate, ((0, 0), (1, 0))), np.concatenate([start, sensitivity], axis=1)


def read_points(rate: np.ndarray, sensitivity: np.ndarray, at: Sequence[float], how: PointReading) -> np.ndarray:
    """Return sensitivity at the rates `at`, taken from one of the points (R, P) without interpolation: (R, len(at)).

    Of equally near points, and of the points at or above a rate, the one of the highest score threshold counts; of
    those at or below, the one of the lowest. Beyond the last point `first_above` takes the last one.
    """
    index = np.zeros((len(rate), len(at)), dtype=np.int64)
    for column, x in enumerate(at):
        if how == "nearest":
            index[:, column] = np.abs(rate - x).argmin(axis=1)
        elif how == "last_below":
            index[:, column] = (rate <= x).sum(axis=1) - 1
        else:
            index[:, column] = np.minimum((rate < x).sum(axis=1), rate.shape[1] - 1)
    return np.take_along_axis(sensitivity, index, axis=1)


def _groups(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group ties of ranked scores: the group each score belongs to (N,), where groups begin and end (P,)."""
    _, first, group = np.unique(-scores, return_index=True, return_inverse=True)
    return group, first, np.append(first[1:], len(group))[: len(first)]


def _per_scan(num_false: np.ndarray, num_false_in_all: np.ndarray, num_scans: np.ndarray) -> np.ndarray:
    # The detour over the share of all false positives rounds as nnDetection does. For 147 false positives in 5 scans it
    # puts the fifth a last bit beyond rate 1, and the hits that follow it with it; 1 in 40 such coincidences does so.
    with np.errstate(invalid="ignore"):  # of no scans, as when the only one is left out: nan
        result: np.ndarray = num_false / np.maximum(num_false_in_all, 1) * num_false_in_all / num_scans
    return result


def _share_reached(rate: float, rate_before: np.ndarray, rate_after: np.ndarray) -> np.ndarray:
    width = rate_after - rate_before
    is_step = width <= 0
    if is_step.all():
        return rate_before <= rate
    slope = np.clip((rate - rate_before) / np.where(is_step, 1, width), 0, 1)
    return np.where(is_step, rate_before <= rate, slope)
