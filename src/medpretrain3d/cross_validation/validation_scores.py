"""Operating points of a detector, from its detections in scans that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation import PredictedCase, TargetCase, mean_average_precision
from medpretrain3d.evaluation.case_level import case_scores
from medpretrain3d.evaluation.center_distance import hit_rule, match_objects, mean_center_precision
from medpretrain3d.evaluation.data_set import count_target_points
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.operating_points import operating_points_document
from medpretrain3d.inference.sweep import Score, merge_case

HIT_IOU = 0.1
"""Least overlap of a hit, as in the FROC by which detectors are read."""


def operating_points_of(
    found: Sequence[PredictedCase | Detections],
    wanted: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    scans: str = "validation",
    is_by_distance: bool = False,
) -> dict[str, Any]:
    """Return the operating points document of detections in scans that were held out.

    Where any object is a point, or with `is_by_distance`, hits are matters of distance, and boxes have to be in mm.

    Raises:
        UserError: see `match_objects`.
    """
    matched = match_objects(found, wanted, classes, HIT_IOU, is_by_distance=is_by_distance)
    scores: dict[str, Any] = {
        name: {
            "num_targets": int(one.num_targets.sum()),
            "hits": one.scores[one.is_hit[0]].tolist(),
            "false_positives": one.scores[~one.is_hit[0] & one.counts_always].tolist(),
        }
        for name, one in zip(classes, matched.classes, strict=True)
    }
    by_scan = list(zip(case_scores(matched.pooled).tolist(), matched.pooled.num_targets > 0, strict=True))
    rule = hit_rule(wanted, HIT_IOU, is_by_distance)
    return operating_points_document(scans, matched.num_scans, rule, scores, by_scan)


def operating_points_of_cache(
    seen: CachedDetections, config: InferenceConfig, is_by_distance: bool = False
) -> dict[str, Any] | None:
    """Return the operating points document of raw detections, merged in one way; None without scans.

    With `is_by_distance` boxes are hit by distance, too.
    """
    if not seen.cases:
        return None
    found = [merge_case(case, config) for case in seen.cases]
    wanted = [case.targets for case in seen.cases]
    if is_by_distance or count_target_points(wanted)[0]:
        found = [_in_mm(one, case) for one, case in zip(found, seen.cases, strict=True)]
        wanted = [_in_mm(one, case) for one, case in zip(wanted, seen.cases, strict=True)]
    return operating_points_of(found, wanted, seen.classes, seen.scans, is_by_distance)


def score_of_merging(
    cases: Sequence[CachedCase], config: InferenceConfig, classes: Sequence[str], is_by_distance: bool = False
) -> tuple[str, Score]:
    """Return by what ways of merging are compared, its name and the score of all cases' detections.

    It is the mAP, or the AP by the distance of centers where any object is a point, boxes are merged by distance, or
    the detector is scored by it.

    Args:
        cases: in the order in which they are scored.
        config: how boxes are merged so far.
        classes: name of each label.
        is_by_distance: whether the detector is scored by the protocol `centre`, of boxes too.
    """
    if (
        config.merge != "distance"
        and not is_by_distance
        and not count_target_points([case.targets for case in cases])[0]
    ):
        return "mAP", lambda found, wanted: mean_average_precision(found, wanted, classes)

    def by_center(found: list[Detections], wanted: list[Targets]) -> float:
        found_mm = [_in_mm(one, case) for one, case in zip(found, cases, strict=True)]
        wanted_mm = [_in_mm(one, case) for one, case in zip(wanted, cases, strict=True)]
        return mean_center_precision(found_mm, wanted_mm, classes)

    return "AP_center", by_center


Boxed = TypeVar("Boxed", Detections, Targets)


def _in_mm(boxed: Boxed, case: CachedCase) -> Boxed:
    """Return the same with boxes and regions in mm along the scan's axes."""
    edges_mm = torch.tensor(case.spacing_mm, dtype=torch.float64).repeat(2)
    changes = {"boxes": boxed.boxes * edges_mm}
    if isinstance(boxed, Targets) and boxed.ignore is not None:
        changes["ignore"] = boxed.ignore * edges_mm
    return replace(boxed, **changes)
