"""RibFrac: fractures by the overlap of instance masks (Jin et al., 2020; Yang et al., 2024).

A finding hits the fracture of highest IoU if that is above 0.2. Of several findings on one fracture the best counts and
the others are neither right nor wrong. As in the challenge's script, the score threshold falls from 0.99 to 0 in steps
of 0.01, and the curve is linear between two thresholds. Every scan counts. The script measures the union as a connected
whole, which lets instances that touch share it; here each instance has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.froc import froc_curve
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.overlap import ScanOverlap

IOU_THRESHOLD = 0.2
FALSE_POSITIVES = (0.5, 1.0, 2.0, 4.0, 8.0)
SCORE_STEPS = np.arange(0, 1, 0.01)


def ribfrac(scans: Sequence[ScanOverlap], resampling: Resampling) -> dict[str, Any]:
    """Sensitivity at 0.5, 1, 2, 4 and 8 false positives per scan, and their mean.

    Returns:
        `fp_per_scan`, `sensitivity`, `froc_score`, `intervals`, what was counted, `per_case`.

    Raises:
        UserError: no fracture in any scan.
    """
    matches = match(scans)
    if not matches.num_targets.any():
        raise UserError(f"none of the {len(scans)} scans has an object to find; check the targets")

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        sensitivity = froc_curve(matches, weights, FALSE_POSITIVES)[:, 0]
        return {"sensitivity": sensitivity, "froc_score": sensitivity.mean(axis=1)}

    values, intervals = resampling.estimate(metrics, len(scans))
    hits = np.bincount(matches.scan[matches.is_hit[0]], minlength=len(scans))
    return {
        "fp_per_scan": list(FALSE_POSITIVES),
        **values,
        "intervals": intervals,
        "num_cases": len(scans),
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
        scores = SCORE_STEPS[np.searchsorted(SCORE_STEPS, one.scores, side="right") - 1]
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
    return join_scans(parts)
