"""Operating points of a detector, from its detections in scans that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.case_level import case_scores
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.operating_points import operating_points_document
from medpretrain3d.inference.sweep import merge_case

HIT_IOU = 0.1
"""Least overlap of a hit, as in the FROC by which detectors are read."""


def operating_points_of(
    found: Sequence[PredictedCase | Detections],
    wanted: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    scans: str = "validation",
) -> dict[str, Any]:
    """Return the operating points document of detections in scans that were held out.

    Raises:
        UserError: see `match_data_set`.
    """
    matched = match_data_set(found, wanted, classes, (HIT_IOU,))
    scores: dict[str, Any] = {
        name: {
            "num_targets": int(one.num_targets.sum()),
            "hits": one.scores[one.is_hit[0]].tolist(),
            "false_positives": one.scores[~one.is_hit[0] & one.counts_always].tolist(),
        }
        for name, one in zip(classes, matched.classes, strict=True)
    }
    by_scan = list(zip(case_scores(matched.pooled).tolist(), matched.pooled.num_targets > 0, strict=True))
    return operating_points_document(scans, matched.num_scans, HIT_IOU, scores, by_scan)


def operating_points_of_cache(seen: CachedDetections, config: InferenceConfig) -> dict[str, Any] | None:
    """Return the operating points document of raw detections, merged in one way; None without scans."""
    if not seen.cases:
        return None
    found = [merge_case(case, config) for case in seen.cases]
    return operating_points_of(found, [case.targets for case in seen.cases], seen.classes)
