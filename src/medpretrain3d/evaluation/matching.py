"""Which detections hit an object, scan by scan.

A scan's matches do not depend on the other scans. Everything that follows (average precision, FROC, bootstrap) is
counting, with one weight per scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medpretrain3d.boxes import box_iou
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase

MAX_DETECTIONS = 100
"""Detections that count per scan and class, the best scores first (nnDetection's MaxDet)."""


@dataclass(frozen=True)
class Matches:
    """The matched detections of all scans, in the order of the scans and by falling score within a scan and class."""

    scores: np.ndarray
    """(N,) float64."""
    scan: np.ndarray
    """(N,) int64, position of the scan each detection belongs to."""
    is_hit: np.ndarray
    """(T, N) bool, one row per IoU threshold."""
    num_targets: np.ndarray
    """(S,) int64, objects in each scan."""

    def ranked(self) -> Matches:
        """Best score first; equal scores keep the order of the scans, as in the COCO evaluator."""
        order = np.argsort(-self.scores, kind="stable")
        return Matches(self.scores[order], self.scan[order], self.is_hit[:, order], self.num_targets)

    def counts_before(self, positions: np.ndarray) -> np.ndarray:
        """How many of each scan's detections stand before each position: (S, P) float64."""
        counts = np.zeros((len(self.num_targets), len(positions)))
        order = np.argsort(self.scan, kind="stable")
        starts = np.searchsorted(self.scan[order], np.arange(len(self.num_targets) + 1))
        for scan in np.unique(self.scan):
            counts[scan] = np.searchsorted(order[starts[scan] : starts[scan + 1]], positions, side="left")
        return counts


def match_boxes(boxes: np.ndarray, target_boxes: np.ndarray, iou_thresholds: np.ndarray) -> np.ndarray:
    """Which detections of one class hit an object of one scan: (T, N) bool.

    In falling score each detection takes the object of highest IoU that no better detection holds, provided the IoU is
    at least the threshold (Lin et al., 2014; the COCO evaluator).

    Args:
        boxes: (N, 6), best score first.
        target_boxes: (G, 6).
        iou_thresholds: (T,).
    """
    is_hit = np.zeros((len(iou_thresholds), len(boxes)), dtype=bool)
    if not len(boxes) or not len(target_boxes):
        return is_hit
    iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(target_boxes)).numpy()  # (N, G)
    is_free = np.ones((len(iou_thresholds), len(target_boxes)), dtype=bool)
    rows = np.arange(len(iou_thresholds))
    for index in np.nonzero(iou.max(axis=1) >= iou_thresholds.min())[0]:
        # Of equal overlaps the COCO evaluator takes the object listed last.
        free = np.where(is_free, iou[index], -1.0)[:, ::-1]  # (T, G)
        best = len(target_boxes) - 1 - free.argmax(axis=1)
        is_hit[:, index] = free.max(axis=1) >= iou_thresholds
        is_free[rows[is_hit[:, index]], best[is_hit[:, index]]] = False
    return is_hit


def match_scans(
    predictions: Sequence[PredictedCase],
    targets: Sequence[TargetCase],
    num_classes: int,
    iou_thresholds: np.ndarray,
    max_detections: int = MAX_DETECTIONS,
) -> list[Matches]:
    """The matches of every class over all scans; `predictions[i]` and `targets[i]` are of the same scan."""
    classes = []
    for label in range(num_classes):
        scores, scan, is_hit, num_targets = [], [], [], []
        for position, (found, wanted) in enumerate(zip(predictions, targets, strict=True)):
            mine = np.nonzero(found.labels == label)[0]
            mine = mine[np.argsort(-found.scores[mine], kind="stable")][:max_detections]
            objects = wanted.boxes[wanted.labels == label]
            scores.append(found.scores[mine])
            scan.append(np.full(len(mine), position))
            is_hit.append(match_boxes(found.boxes[mine], objects, iou_thresholds))
            num_targets.append(len(objects))
        classes.append(
            Matches(np.concatenate(scores), np.concatenate(scan), np.concatenate(is_hit, axis=1), np.array(num_targets))
        )
    return classes


def pool_classes(classes: Sequence[Matches]) -> Matches:
    """All classes as one: a hit stays a hit of its own class, every object counts the same."""
    return Matches(
        np.concatenate([one.scores for one in classes]),
        np.concatenate([one.scan for one in classes]),
        np.concatenate([one.is_hit for one in classes], axis=1),
        np.sum([one.num_targets for one in classes], axis=0),
    )
