"""Do scores mean what they say: is a detection of score 0.7 right in 7 of 10 cases?"""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.evaluation.bootstrap import NumBehind, Resampling
from medpretrain3d.evaluation.matching import Matches

NUM_BINS = 10


def calibration(matches: Matches, resampling: Resampling, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Return reliability in bins of equal width, and the expected calibration error (Guo et al., 2017, eq. 3).

    The confidence of a detection is its score, its accuracy whether it hits at the first threshold. Detections in an
    ignore region that hit nothing are left out.

    Args:
        matches: one class or all classes pooled.
        resampling: of the intervals.
        num_bins: bins over [0, 1]; a score of 1 falls into the last.

    Returns:
        `expected_calibration_error` (nan without detections), `intervals`, and `bins`: dicts of `from`, `to`,
        `num_detections`, `mean_score`, `precision` and its `interval`; nan in an empty bin.
    """
    is_hit, num_scans = matches.is_hit[0], len(matches.num_targets)
    counts = is_hit | matches.counts_always
    place = np.clip((matches.scores * num_bins).astype(int), 0, num_bins - 1)  # (N,)

    def per_scan(value: np.ndarray) -> np.ndarray:
        """Return sum of a value per detection over each scan and bin: (S, B)."""
        total = np.zeros((num_scans, num_bins))
        np.add.at(total, (matches.scan, place), value * counts)
        return total

    number, score, hits = per_scan(np.ones(len(place))), per_scan(matches.scores), per_scan(is_hit)

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        in_bin, score_sum, num_hits = weights @ number, weights @ score, weights @ hits  # (R, B)
        total = in_bin.sum(axis=1)
        with np.errstate(invalid="ignore"):
            error = np.abs(score_sum - num_hits).sum(axis=1) / np.where(total > 0, total, np.nan)
            filled = np.where(in_bin > 0, in_bin, np.nan)
            return {"error": error, "mean_score": score_sum / filled, "precision": num_hits / filled}

    patients = matches.patients
    filled_by = patients.num_with(number > 0)  # (B,)
    num_behind: NumBehind = {
        "error": int(patients.num_with(number.sum(axis=1) > 0)),
        "mean_score": filled_by,
        "precision": filled_by,
    }
    values, intervals = resampling.estimate(metrics, patients, num_behind)
    edges = np.linspace(0, 1, num_bins + 1)
    return {
        "expected_calibration_error": values["error"],
        "intervals": {"expected_calibration_error": intervals["error"]} if intervals else {},
        "bins": [
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]),
                "num_detections": int(number[:, index].sum()),
                "mean_score": values["mean_score"][index],
                "precision": values["precision"][index],
                **({"interval": intervals["precision"][index]} if intervals else {}),
            }
            for index in range(num_bins)
        ],
    }
