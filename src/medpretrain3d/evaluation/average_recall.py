"""Average recall: the share of objects found by the best few detections of each scan."""

from __future__ import annotations

import numpy as np

from medpretrain3d.evaluation.matching import Matches


def recall(matches: Matches, weights: np.ndarray, max_detections: int | None = None) -> np.ndarray:
    """Return share of the objects that the `max_detections` best-scored detections of each scan hit (Lin et al., 2014).

    Args:
        matches: T thresholds, S scans.
        weights: (R, S), how often each scan counts in each replicate.
        max_detections: detections per scan that may hit; None for all.

    Returns:
        (R, T); nan in a replicate without objects.
    """
    num_scans = len(matches.num_targets)
    order = np.lexsort((-matches.scores, matches.scan))  # stable: equal scores stay as they are
    place = np.arange(len(order)) - np.searchsorted(matches.scan[order], matches.scan[order])  # within the scan
    counted = matches[order[place < (len(order) if max_detections is None else max_detections)]]
    hits = np.stack([np.bincount(counted.scan[is_hit], minlength=num_scans) for is_hit in counted.is_hit], axis=1)
    num_targets = weights @ matches.num_targets
    with np.errstate(invalid="ignore"):
        return (weights @ hits) / np.where(num_targets > 0, num_targets, np.nan)[:, None]
