"""Average precision with 101 recall levels, for many weightings of the scans at once."""

from __future__ import annotations

import numpy as np

from medpretrain3d.evaluation.matching import Matches

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Mean over 101 recall levels of the best precision at that recall or beyond (Lin et al., 2014).

    A scan of weight 2 counts as if it were there twice, which is what a bootstrap replicate is.

    Args:
        matches: one class, T thresholds, S scans.
        weights: (R, S), how often each scan counts in each replicate.

    Returns:
        (R, T); nan in a replicate without objects.
    """
    ranked = matches.ranked()
    num_targets = weights @ ranked.num_targets  # (R,)
    # Precision falls at every detection that is no hit, so the envelope only needs the positions of the hits.
    at = np.nonzero(ranked.is_hit.any(axis=0))[0]  # (P,)
    num_detections = weights @ ranked.counts_before(at + 1)  # (R, P)
    weight_of_hit = weights[:, ranked.scan[at]]  # (R, P)
    result = np.zeros((len(weights), len(ranked.is_hit)))
    for row, is_hit in enumerate(ranked.is_hit[:, at]):
        num_hits = np.cumsum(weight_of_hit * is_hit, axis=1)
        result[:, row] = _area(num_hits, num_detections, num_targets)
    result[num_targets == 0] = np.nan
    return result


def _area(num_hits: np.ndarray, num_detections: np.ndarray, num_targets: np.ndarray) -> np.ndarray:
    precision = num_hits / np.maximum(num_detections, 1)  # (R, P)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # nnDetection divides in float32, where 1 of 25 objects does not reach the recall level 0.04 and float64 does: one
    # level of 101, so up to 0.01 of AP.
    recall = num_hits.astype(np.float32) / np.maximum(num_targets, 1).astype(np.float32)[:, None]
    levels_reached = np.searchsorted(RECALL_LEVELS, recall, side="right")
    new_levels = np.diff(levels_reached, axis=1, prepend=0)
    return (envelope * new_levels).sum(axis=1) / len(RECALL_LEVELS)
