"""PI-CAI: lesions by mask overlap and scans by their highest score, averaged (Saha et al., 2024).

Findings and lesions are paired so that as many pairs as possible have an IoU of at least 0.1, and among those so that
the sum of the IoUs is largest (Hungarian method). A finding that has such an IoU with a lesion but went without a pair
is ignored. AP is the area under the steps of precision over recall of all findings of all scans; AUROC
tells scans with lesions from scans without by their highest score; the ranking score is the mean of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.case_level import area_under_precision_recall, area_under_roc
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.overlap import ScanOverlap
from medpretrain3d.evaluation.patients import Patients

MIN_IOU = 0.1


def picai(scans: Sequence[ScanOverlap], resampling: Resampling) -> dict[str, Any]:
    """Return AP of the lesions, AUROC of the scans, and `score`, the mean of both.

    Returns:
        `AP` (nan without a lesion), `auroc` (nan unless there are scans of both kinds), `score`, `intervals`, what was
        counted, `per_case`.
    """
    patients = Patients.of(scans)
    matches = join_scans([match(one) for one in scans], patients.of_scan)
    case_score = np.array([one.scores.max(initial=0.0) for one in scans])
    is_positive = matches.num_targets > 0
    num_hits = np.bincount(matches.scan[matches.is_hit[0]], minlength=len(scans))

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        num_missed = weights @ (matches.num_targets - num_hits)
        of_finding = weights[:, matches.scan]
        ap = area_under_precision_recall(matches.scores, matches.is_hit[0], of_finding, num_missed)
        auroc = area_under_roc(case_score, is_positive, weights)
        return {"AP": ap, "auroc": auroc, "score": (ap + auroc) / 2}

    with_lesion, without = (int(patients.num_with(one)) for one in (is_positive, ~is_positive))
    of_both = min(with_lesion, without)
    values, intervals = resampling.estimate(metrics, patients, {"AP": with_lesion, "auroc": of_both, "score": of_both})
    return {
        **values,
        "intervals": intervals,
        "num_cases": len(scans),
        "num_patients": patients.num,
        "num_positive_cases": int(is_positive.sum()),
        "num_targets": int(matches.num_targets.sum()),
        "num_predictions": sum(len(one.scores) for one in scans),
        **resampling.facts(),
        "per_case": [
            {"case": one.case, "num_targets": one.num_targets, "num_hits": int(found), "max_score": float(score)}
            for one, found, score in zip(scans, num_hits, case_score, strict=True)
        ],
    }


def match(one: ScanOverlap) -> Matches:
    """Return the findings of one scan that are right or wrong; a score of 0 is no finding."""
    from scipy.optimize import linear_sum_assignment

    enough = np.where(one.iou >= MIN_IOU, one.iou, 0.0)
    finding, lesion = linear_sum_assignment(np.where(enough > 0, 1 + enough, 0.0), maximize=True)
    is_hit = np.zeros(len(one.scores), dtype=bool)
    is_hit[finding[enough[finding, lesion] > 0]] = True
    keep = np.nonzero((is_hit | ~(enough > 0).any(axis=1)) & (one.scores > 0))[0]
    keep = keep[np.argsort(-one.scores[keep], kind="stable")]
    scan = np.zeros(len(keep), dtype=int)
    return Matches(one.scores[keep], scan, is_hit[None, keep], np.array([one.num_targets]))
