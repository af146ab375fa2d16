"""Operating points: detection performance at chosen score thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import NumBehind, Resampling
from medpretrain3d.evaluation.matching import Matches

SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def operating_points(
    matches: Matches, resampling: Resampling, scores: Sequence[float] = SCORES
) -> list[dict[str, Any]]:
    """One row per score: sensitivity, precision and false positives per scan of all detections of at least that score.

    Args:
        matches: one class or all classes pooled; the first threshold decides what is a hit.
        resampling: of the intervals.
        scores: thresholds, in [0, 1].

    Returns:
        Per score a dict `score`, `num_hits`, `num_false_positives`, `sensitivity`, `precision` (nan where nothing is
        reported), `false_positives_per_scan`, and `intervals` of the last three.

    Raises:
        UserError: a score outside [0, 1].
    """
    wrong = [score for score in scores if not 0 <= score <= 1]
    if wrong:
        raise UserError(f"operating point at score {wrong[0]:g}: must lie in [0, 1]")
    is_hit, patients = matches.is_hit[0], matches.patients
    is_false = ~is_hit & matches.counts_always
    hits, false = (_per_scan_above(matches, chosen, scores) for chosen in (is_hit, is_false))

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        num_hits, num_false, num_targets = weights @ hits, weights @ false, weights @ matches.num_targets
        with np.errstate(invalid="ignore"):
            return {
                "sensitivity": num_hits / np.where(num_targets > 0, num_targets, np.nan)[:, None],
                "precision": num_hits / np.where(num_hits + num_false > 0, num_hits + num_false, np.nan),
                "false_positives_per_scan": num_false / weights.sum(axis=1, keepdims=True),
            }

    num_behind: NumBehind = {
        "sensitivity": matches.num_patients_with_objects,
        "precision": patients.num_with(hits + false > 0),  # at each score
        "false_positives_per_scan": patients.num,
    }
    values, intervals = resampling.estimate(metrics, patients, num_behind, rates=("false_positives_per_scan",))
    return [
        {
            "score": float(score),
            "num_hits": int(hits[:, column].sum()),
            "num_false_positives": int(false[:, column].sum()),
            **{name: value[column] for name, value in values.items()},
            "intervals": {name: interval[column] for name, interval in intervals.items()},
        }
        for column, score in enumerate(scores)
    ]


def _per_scan_above(matches: Matches, chosen: np.ndarray, scores: Sequence[float]) -> np.ndarray:
    """Count the chosen detections of each scan at or above each score: (S, P) float64."""
    num_scans = len(matches.num_targets)
    counts = [np.bincount(matches.scan[chosen & (matches.scores >= score)], minlength=num_scans) for score in scores]
    return np.stack(counts, axis=1).astype(float) if counts else np.zeros((num_scans, 0))
