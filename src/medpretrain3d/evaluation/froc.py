"""Free-response ROC: sensitivity at given numbers of false positives per scan, for many weightings of the scans."""

from __future__ import annotations

import numpy as np

from medpretrain3d.evaluation.matching import Matches

FALSE_POSITIVES_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def froc_curve(
    matches: Matches, weights: np.ndarray, rates: tuple[float, ...] = FALSE_POSITIVES_PER_SCAN
) -> np.ndarray:
    """Sensitivity at each rate of false positives per scan, over all scans, also those without objects.

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
    num_scans = weights.sum(axis=1, keepdims=True)  # (R, 1)
    num_targets = weights @ ranked.num_targets  # (R,)
    _, first, group = np.unique(-ranked.scores, return_index=True, return_inverse=True)
    end = np.append(first[1:], len(group))
    at = np.unique(group[ranked.is_hit.any(axis=0)])  # groups of equal score that hold a hit, (P,)
    num_before = weights @ ranked.counts_before(first[at])  # (R, P)
    num_after = weights @ ranked.counts_before(end[at])
    num_all = weights @ ranked.counts_before(np.array([len(group)]))  # (R, 1)

    curve = np.zeros((len(weights), len(ranked.is_hit), len(rates)))
    for row, is_hit in enumerate(ranked.is_hit):
        hits_per_scan = np.zeros((weights.shape[1], len(at)))
        np.add.at(hits_per_scan, (ranked.scan[is_hit], np.searchsorted(at, group[is_hit])), 1)
        hits = weights @ hits_per_scan  # (R, P)
        hits_after = np.cumsum(hits, axis=1)
        num_false = num_all - hits.sum(axis=1, keepdims=True)
        rate_before = _per_scan(num_before - (hits_after - hits), num_false, num_scans)
        rate_after = _per_scan(num_after - hits_after, num_false, num_scans)
        for column, rate in enumerate(rates):
            curve[:, row, column] = (hits * _share_reached(rate, rate_before, rate_after)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return curve / np.where(num_targets > 0, num_targets, np.nan)[:, None, None]


def _per_scan(num_false: np.ndarray, num_false_in_all: np.ndarray, num_scans: np.ndarray) -> np.ndarray:
    # The detour over the share of all false positives rounds as nnDetection does. For 147 false positives in 5 scans it
    # puts the fifth a last bit beyond rate 1, and the hits that follow it with it; 1 in 40 such coincidences does so.
    return num_false / np.maximum(num_false_in_all, 1) * num_false_in_all / num_scans


def _share_reached(rate: float, rate_before: np.ndarray, rate_after: np.ndarray) -> np.ndarray:
    width = rate_after - rate_before
    is_step = width <= 0
    if is_step.all():
        return rate_before <= rate
    slope = np.clip((rate - rate_before) / np.where(is_step, 1, width), 0, 1)
    return np.where(is_step, rate_before <= rate, slope)
