"""Average precision with 101 recall levels, for many weightings of the scans at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from medpretrain3d.evaluation.matching import Matches, split_scans
from medpretrain3d.evaluation.weightings import blocks

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
RecallType = type[np.floating[Any]]
"""In which recall is divided: float32 as in nnDetection, float64 as in pycocotools. In float32 1 of 25 objects does not
reach the level 0.04: one level of 101, so up to 0.01 of AP."""


def average_precision(matches: Matches, weights: np.ndarray, recall_type: RecallType = np.float32) -> np.ndarray:
    """Return mean over 101 recall levels of the best precision at that recall or beyond (Lin et al., 2014).

    A scan of weight 2 counts as if it were there twice, which is what a bootstrap replicate is.

    Args:
        matches: one class, T thresholds, S scans.
        weights: (R, S), how often each scan counts in each replicate.
        recall_type: see `RecallType`.

    Returns:
        (R, T); nan in a replicate without objects.
    """
    ranked = matches.ranked()

    def of_block(weights: np.ndarray) -> np.ndarray:
        result = np.zeros((len(weights), len(ranked.is_hit)))
        for row, (envelope, levels_reached) in enumerate(_curves(ranked, weights, recall_type)):
            new_levels = np.diff(levels_reached, axis=1, prepend=0)
            result[:, row] = (envelope * new_levels).sum(axis=1) / len(RECALL_LEVELS)
        result[weights @ ranked.num_targets == 0] = np.nan
        return result

    return np.concatenate([of_block(block) for block in blocks(weights, len(ranked.scores))])


def average_precision_by_scan(matches: Matches, recall_type: RecallType = np.float32) -> np.ndarray:
    """Return the `average_precision` of each scan alone: (S, T); nan for a scan without objects."""
    once = np.ones((1, 1))
    return np.concatenate([average_precision(one, once, recall_type) for one in split_scans(matches)])


def precision_at_recall(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """The curve behind `average_precision`: best precision at each of the 101 recall levels or beyond, (R, T, 101)."""
    ranked = matches.ranked()

    def of_block(weights: np.ndarray) -> np.ndarray:
        curve = np.zeros((len(weights), len(ranked.is_hit), len(RECALL_LEVELS)))
        for row, (envelope, levels_reached) in enumerate(_curves(ranked, weights)):
            for replicate, (height, reached) in enumerate(zip(envelope, levels_reached, strict=True)):
                at = np.searchsorted(reached, np.arange(len(RECALL_LEVELS)), side="right")
                curve[replicate, row] = np.append(height, 0.0)[at]
        curve[weights @ ranked.num_targets == 0] = np.nan
        return curve

    return np.concatenate([of_block(block) for block in blocks(weights, len(ranked.scores))])


def _curves(
    ranked: Matches, weights: np.ndarray, recall_type: RecallType = np.float32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per threshold, at each hit: the best precision from there on, and how many recall levels are reached, (R, P)."""
    num_targets = weights @ ranked.num_targets  # (R,)
    # Precision falls at every detection that is no hit, so the envelope only needs the positions of the hits.
    at = np.nonzero(ranked.is_hit.any(axis=0))[0]  # (P,)
    num_always = ranked.counts_before(weights, ranked.counts_always, at + 1)  # (R, P)
    weight_of_hit = weights[:, ranked.scan[at]]  # (R, P)
    only_as_hit = ~ranked.counts_always[at]  # (P,)
    for is_hit in ranked.is_hit[:, at]:
        num_hits = np.cumsum(weight_of_hit * is_hit, axis=1)
        num_detections = num_always
        if only_as_hit.any():
            num_detections = num_always + np.cumsum(weight_of_hit * (is_hit & only_as_hit), axis=1)
        precision = num_hits / np.maximum(num_detections, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = num_hits.astype(recall_type) / np.maximum(num_targets, 1).astype(recall_type)[:, None]
        yield envelope, np.searchsorted(RECALL_LEVELS, recall, side="right")
