"""Matching of detections to ground-truth objects, scan by scan.

A scan's matches do not depend on the other scans. Everything that follows (average precision, FROC, bootstrap) is
counting, with one weight per scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medpretrain3d.boxes import box_center, box_iou
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.patients import Patients

MAX_DETECTIONS = 100
"""Detections that count per scan and class, the best scores first (nnDetection's MaxDet)."""

Closeness = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From boxes (N, 6) and objects (G, 6) to how well each pair fits, (N, G), the higher the better."""


@dataclass(frozen=True)
class Matches:
    """The matched detections of all scans, in the order of the scans and by falling score within a scan and class."""

    scores: np.ndarray
    """(N,) float64."""
    scan: np.ndarray
    """(N,) int64, position of the scan each detection belongs to."""
    is_hit: np.ndarray
    """(T, N) bool, one row per threshold."""
    num_targets: np.ndarray
    """(S,) int64, objects in each scan."""
    is_ignorable: np.ndarray | None = None
    """(N,) bool, detections in an ignore region: they count only where they hit. None: there is none."""
    detection: np.ndarray | None = None
    """(N,) int64, position among the detections of its scan; None where nobody asks."""
    target: np.ndarray | None = None
    """(T, N) int64, position of the object hit among the objects of its scan, -1 without; None where nobody asks."""
    patient: np.ndarray | None = None
    """(S,) int64, number of each scan's patient, from 0; None where each scan is of a patient of its own."""

    @property
    def counts_always(self) -> np.ndarray:
        """(N,) bool, the detections outside all ignore regions."""
        return np.ones(len(self.scores), dtype=bool) if self.is_ignorable is None else ~self.is_ignorable

    @property
    def patients(self) -> Patients:
        """Of the scans."""
        return Patients.one_each(len(self.num_targets)) if self.patient is None else Patients(self.patient)

    @property
    def num_patients_with_objects(self) -> int:
        """Patients that what is said of the objects, such as a recall, rests on."""
        return int(self.patients.num_with(self.num_targets > 0))

    def __getitem__(self, index: np.ndarray) -> Matches:
        """Return some of the detections, in the order of `index`; the objects stay."""
        return Matches(
            self.scores[index],
            self.scan[index],
            self.is_hit[:, index],
            self.num_targets,
            None if self.is_ignorable is None else self.is_ignorable[index],
            None if self.detection is None else self.detection[index],
            None if self.target is None else self.target[:, index],
            self.patient,
        )

    def rows(self, rows: Sequence[int]) -> Matches:
        """Return some of the thresholds."""
        return replace(self, is_hit=self.is_hit[rows], target=None if self.target is None else self.target[rows])

    def ranked(self) -> Matches:
        """Return best score first; equal scores keep the order of the scans, as in the COCO evaluator."""
        return self[np.argsort(-self.scores, kind="stable")]

    def counts_before(self, weights: np.ndarray, chosen: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Count the chosen detections before each position under each weighting of the scans.

        Args:
            weights: (R, S).
            chosen: (N,) bool.
            positions: (P,), from 0 to N.

        Returns:
            (R, P) float64.
        """
        places = np.nonzero(chosen)[0]
        counts = np.zeros((len(weights), len(places) + 1))
        np.cumsum(weights[:, self.scan[places]], axis=1, out=counts[:, 1:])
        result: np.ndarray = counts[:, np.searchsorted(places, positions)]
        return result

    def places_by_scan(self) -> list[np.ndarray]:
        """Return the positions of each scan's detections, in their order: S arrays."""
        order = np.argsort(self.scan, kind="stable")
        return np.split(order, np.searchsorted(self.scan[order], np.arange(1, len(self.num_targets))))


def intersection_over_union(boxes: np.ndarray, target_boxes: np.ndarray) -> np.ndarray:
    """Return IoU of every pair in float64: (N, G)."""
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(target_boxes)).numpy()


def greedy_match(closeness: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Match the detections of one class and scan to objects greedily: index of the object, -1 for none: (T, N) int64.

    In falling score each detection takes the closest object that no better detection holds, provided the closeness is
    at least the threshold (Lin et al., 2014; the COCO evaluator).

    Args:
        closeness: (N, G), best score first.
        thresholds: (T,).
    """
    detection, target = np.nonzero(closeness >= thresholds.min())
    value = closeness[detection, target]
    # Of equally close objects the COCO evaluator takes the one listed last.
    order = np.lexsort((-target, -value, detection))
    pairs = list(zip(detection[order].tolist(), target[order].tolist(), value[order].tolist(), strict=True))
    hit = np.full((len(thresholds), len(closeness)), -1)
    for row, threshold in enumerate(thresholds.tolist()):
        # Plain sets: a scan has few pairs, and numpy costs 10 us per detection where this costs 1.
        found: dict[int, int] = {}
        held: set[int] = set()
        for one, wanted, how_close in pairs:
            if how_close >= threshold and one not in found and wanted not in held:
                found[one] = wanted
                held.add(wanted)
        hit[row, list(found)] = list(found.values())
    return hit


def lies_in_any(boxes: np.ndarray, regions: np.ndarray | None) -> np.ndarray:
    """Return whether the centre of each box (N, 6) lies in one of the regions (M, 6), borders included: (N,) bool."""
    if regions is None or not len(regions):
        return np.zeros(len(boxes), dtype=bool)
    center: Any = box_center(boxes)[:, None]  # (N, 1, 3)
    result: np.ndarray = ((center >= regions[:, :3]) & (center <= regions[:, 3:])).all(axis=2).any(axis=1)
    return result


def match_scans(
    predictions: Sequence[PredictedCase],
    targets: Sequence[TargetCase],
    num_classes: int,
    thresholds: np.ndarray,
    closeness: Closeness = intersection_over_union,
    max_detections: int = MAX_DETECTIONS,
) -> list[Matches]:
    """Return the matches of every class over all scans; `predictions[i]` and `targets[i]` are of the same scan."""
    patient = Patients.of(targets).of_scan
    return [
        join_scans(
            [
                _match_scan(found, wanted, label, thresholds, closeness, max_detections)
                for found, wanted in zip(predictions, targets, strict=True)
            ],
            patient,
        )
        for label in range(num_classes)
    ]


def join_scans(scans: Sequence[Matches], patient: np.ndarray | None = None) -> Matches:
    """Return matches of single scans, each numbered 0 in its own, as those of a data set, with the patient of each."""
    return Matches(
        np.concatenate([one.scores for one in scans]),
        np.repeat(np.arange(len(scans)), [len(one.scores) for one in scans]),
        np.concatenate([one.is_hit for one in scans], axis=1),
        np.concatenate([one.num_targets for one in scans]),
        *_joined(scans),
        patient,
    )


def split_scans(matches: Matches) -> Iterator[Matches]:
    """Yield the matches of each scan alone, numbered 0 in its own: what `join_scans` joins."""
    for scan, places in enumerate(matches.places_by_scan()):
        one = matches[places]
        yield replace(one, scan=np.zeros_like(one.scan), num_targets=matches.num_targets[[scan]])


def pool_classes(classes: Sequence[Matches]) -> Matches:
    """Return all classes as one: a hit stays a hit of its own class, every object counts the same."""
    return Matches(
        np.concatenate([one.scores for one in classes]),
        np.concatenate([one.scan for one in classes]),
        np.concatenate([one.is_hit for one in classes], axis=1),
        np.sum([one.num_targets for one in classes], axis=0),
        *_joined(classes),
        classes[0].patient,
    )


def _match_scan(
    found: PredictedCase,
    wanted: TargetCase,
    label: int,
    thresholds: np.ndarray,
    closeness: Closeness,
    max_detections: int,
) -> Matches:
    def of_pairs(mine: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return closeness(found.boxes[mine], wanted.boxes[objects])

    matches = match_class(found.scores, found.labels, wanted.labels, label, thresholds, of_pairs, max_detections)
    return replace(matches, is_ignorable=lies_in_any(found.boxes[matches.detection], wanted.ignore))


def match_class(
    scores: np.ndarray,
    labels: np.ndarray,
    target_labels: np.ndarray,
    label: int,
    thresholds: np.ndarray,
    closeness: Callable[[np.ndarray, np.ndarray], np.ndarray],
    max_detections: int = MAX_DETECTIONS,
) -> Matches:
    """Match the best detections of one class and scan to its objects, see `greedy_match`.

    Args:
        scores: (N,) of the detections.
        labels: (N,) of these.
        target_labels: (G,) of the objects.
        label: the class.
        thresholds: (T,).
        closeness: from positions of detections (n,) and objects (g,) to how well each pair fits, (n, g).
        max_detections: that count.
    """
    mine = np.nonzero(labels == label)[0]
    mine = mine[np.argsort(-scores[mine], kind="stable")][:max_detections]
    objects = np.nonzero(target_labels == label)[0]
    hit = np.full((len(thresholds), len(mine)), -1)
    if len(mine) and len(objects):
        local = greedy_match(closeness(mine, objects), thresholds)
        hit = np.where(local >= 0, objects[local], -1)
    count = np.array([len(objects)])
    return Matches(scores[mine], np.zeros(len(mine), dtype=np.int64), hit >= 0, count, detection=mine, target=hit)


def _joined(parts: Sequence[Matches]) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    ignorable = [one.is_ignorable for one in parts if one.is_ignorable is not None]
    detection = [one.detection for one in parts if one.detection is not None]
    target = [one.target for one in parts if one.target is not None]
    return (
        np.concatenate(ignorable) if len(ignorable) == len(parts) else None,
        np.concatenate(detection) if len(detection) == len(parts) else None,
        np.concatenate(target, axis=1) if len(target) == len(parts) else None,
    )
