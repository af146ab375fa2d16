"""Instance masks by the overlap of their voxels: AP as of boxes (the `segm` of Lin et al., 2014), and Dice of the hits.

The overlap of two masks takes the place of that of two boxes; all else is as in `detection`. What was found without a
voxel of its own, such as a box whose voxels belong to better ones, hits nothing and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.data_set import MatchedScans
from medpretrain3d.evaluation.detection import COCO_KEYS, IOU_THRESHOLDS, MAP_IOUS, coco_metrics
from medpretrain3d.evaluation.matching import Matches, join_scans, match_class, pool_classes

DICE_IOU = 0.1
"""Least IoU of the hits whose Dice is averaged."""
DICE_KEY = "Dice_IoU_0.10"


@dataclass(frozen=True)
class MaskedScan:
    """One scan: `scores` and `labels` (N,) of what was found, `target_labels` (G,) of the objects, `iou` (N, G) of
    their masks."""

    case: str
    scores: np.ndarray
    labels: np.ndarray
    target_labels: np.ndarray
    iou: np.ndarray


def mask_detection(scans: Sequence[MaskedScan], classes: Sequence[str], resampling: Resampling) -> dict[str, Any]:
    """Return AP, mAP, AR and mAR of masks by the keys of `evaluate`, and the mean Dice of hits (`Dice_IoU_0.10`).

    Args:
        scans: one entry per scan.
        classes: name of each label.
        resampling: of the intervals.

    Returns:
        These, `num_hits` (whose Dice it is), `intervals`, `per_case`, and what was counted.

    Raises:
        UserError: no scan, or no object in any.
    """
    matched = match_masks(scans, classes)
    dice, of_scan = _dice_of_hits(scans, matched)

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        counted = weights[:, of_scan]  # (R, hits)
        with np.errstate(invalid="ignore"):  # of a replicate without a hit
            return {**coco_metrics(matched, weights), DICE_KEY: counted @ dice / counted.sum(axis=1)}

    patients = matched.patients
    num_behind = {**matched.num_patients_behind(COCO_KEYS), DICE_KEY: len(np.unique(patients.of_scan[of_scan]))}
    values, intervals = resampling.estimate(metrics, patients, num_behind)
    return {
        **values,
        "num_hits": len(dice),
        **matched.facts(),
        **resampling.facts(),
        "intervals": intervals,
        "per_case": matched.case_scores([IOU_THRESHOLDS.index(iou) for iou in MAP_IOUS]),
    }


def match_masks(scans: Sequence[MaskedScan], classes: Sequence[str]) -> MatchedScans:
    """Match every scan at the thresholds of `evaluate`.

    Raises:
        UserError: no scan, or no object in any.
    """
    if not any(len(one.target_labels) for one in scans):
        raise UserError(f"none of the {len(scans)} scans has an object to find; check the targets")
    thresholds = np.array(IOU_THRESHOLDS)

    def match(scan: MaskedScan, label: int) -> Matches:
        def of_pairs(mine: np.ndarray, objects: np.ndarray) -> np.ndarray:
            iou: np.ndarray = scan.iou[np.ix_(mine, objects)]
            return iou

        return match_class(scan.scores, scan.labels, scan.target_labels, label, thresholds, of_pairs)

    by_class = [join_scans([match(one, label) for one in scans]) for label in range(len(classes))]
    return MatchedScans(
        [PredictedCase(one.case, np.zeros((len(one.scores), 6)), one.scores, one.labels) for one in scans],
        [TargetCase(one.case, np.zeros((len(one.target_labels), 6)), one.target_labels) for one in scans],
        classes,
        by_class,
        pool_classes(by_class),
    )


def _dice_of_hits(scans: Sequence[MaskedScan], matched: MatchedScans) -> tuple[np.ndarray, np.ndarray]:
    """Return the Dice of every hit, and the position of its scan: (H,) each."""
    pooled, row = matched.pooled, IOU_THRESHOLDS.index(DICE_IOU)
    assert pooled.detection is not None
    assert pooled.target is not None
    hits = np.flatnonzero(pooled.is_hit[row])
    of_scan = pooled.scan[hits]
    pairs = zip(of_scan, pooled.detection[hits], pooled.target[row, hits], strict=True)
    iou = np.array([scans[scan].iou[found, wanted] for scan, found, wanted in pairs], dtype=float)
    return 2 * iou / (1 + iou), of_scan
