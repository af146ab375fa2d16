"""A data set whose detections have met its objects; every metric on it is counting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.average_precision import RecallType, average_precision_by_scan
from medpretrain3d.evaluation.case_level import case_scores
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase, as_predicted_cases, as_target_cases
from medpretrain3d.evaluation.matching import (
    MAX_DETECTIONS,
    Closeness,
    Matches,
    intersection_over_union,
    match_scans,
    pool_classes,
)
from medpretrain3d.evaluation.patients import Patients
from medpretrain3d.evaluation.scan_frame import in_scan_frames
from medpretrain3d.store.points import count_points, refuse_points


@dataclass(frozen=True)
class MatchedScans:
    """Detections and objects of S scans, each scan in one frame, and which of them belong together at each of T
    thresholds."""

    predictions: Sequence[PredictedCase]
    targets: Sequence[TargetCase]
    names: Sequence[str]
    classes: list[Matches]
    pooled: Matches
    num_oblique: int = 0
    """Scans whose boxes were matched along oblique axes."""
    notes: Sequence[str] = ()
    """What a reader of the scores has to know about the frames of the boxes."""

    @property
    def num_scans(self) -> int:
        """Scans, with and without objects."""
        return len(self.targets)

    @property
    def patients(self) -> Patients:
        """Of the scans."""
        return self.pooled.patients

    @property
    def num_over_limit(self) -> int:
        """Detections beyond the best `MAX_DETECTIONS` of a scan and class."""
        return sum(len(found.scores) for found in self.predictions) - sum(len(one.scores) for one in self.classes)

    @property
    def classes_without_targets(self) -> list[str]:
        """Classes that no scan holds an object of."""
        return [name for name, one in zip(self.names, self.classes, strict=True) if not one.num_targets.any()]

    def num_patients_behind(self, keys: Iterable[str]) -> dict[str, int]:
        """Count the patients with an object, by each key and, those with one of a class, by its `class_key`."""
        named = [(name, one.num_patients_with_objects) for name, one in zip(self.names, self.classes, strict=True)]
        pooled = self.pooled.num_patients_with_objects
        keys = list(keys)
        return {class_key(name, key): number for name, number in named for key in keys} | dict.fromkeys(keys, pooled)

    def facts(self) -> dict[str, Any]:
        """Return the counts of cases, patients, targets, predictions and ignore regions."""
        return {
            "classes": list(self.names),
            "classes_without_targets": self.classes_without_targets,
            "num_cases": self.num_scans,
            "num_patients": self.patients.num,
            "num_targets": {
                name: int(one.num_targets.sum()) for name, one in zip(self.names, self.classes, strict=True)
            },
            "num_predictions": sum(len(found.scores) for found in self.predictions),
            "num_ignore_regions": sum(0 if wanted.ignore is None else len(wanted.ignore) for wanted in self.targets),
            "num_oblique_cases": self.num_oblique,
            "num_predictions_over_limit": self.num_over_limit,
            "notes": [*self.notes, *self._limit_notes()],
        }

    def _limit_notes(self) -> list[str]:
        if not self.num_over_limit:
            return []
        return [f"{self.num_over_limit} detections beyond the best {MAX_DETECTIONS} of a scan and class do not count"]

    def case_scores(self, rows: Sequence[int], recall_type: RecallType = np.float32) -> list[dict[str, Any]]:
        """One entry per scan: `case`, `num_targets`, `num_predictions`, `num_hits`, `max_score`, and `score` in [0, 1].

        The score of a scan with objects is the average precision of this scan alone, all classes pooled, averaged over
        the thresholds `rows`. The score of a scan without objects is 1 minus its highest detection score: 1 where
        nothing was found, 0 where something was found with certainty. Hits are those at the first threshold; a
        detection in an ignore region that hits nothing there has no part in the scores, see `case_level.case_scores`.
        """
        highest = case_scores(self.pooled)
        ap = average_precision_by_scan(self.pooled.rows(rows), recall_type).mean(axis=1)  # (S,)
        hits = np.bincount(self.pooled.scan[self.pooled.is_hit[0]], minlength=self.num_scans)
        return [
            {
                "case": found.case,
                "num_targets": len(wanted.labels),
                "num_predictions": len(found.scores),
                "num_hits": int(num_hits),
                "max_score": float(max_score),
                "score": float(score if len(wanted.labels) else 1.0 - max_score),
            }
            for found, wanted, score, num_hits, max_score in zip(
                self.predictions, self.targets, ap, hits, highest, strict=True
            )
        ]


def class_key(name: str, key: str) -> str:
    """Return the key of a metric of one class, `key` being that of all classes."""
    return f"{name}_{key}"


def count_target_points(targets: Sequence[TargetCase | Targets]) -> tuple[int, int]:
    """Return how many objects are points, and how many objects there are."""
    return count_points(np.asarray(one.boxes).reshape(-1, 6) for one in targets)


def match_data_set(
    predictions: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    thresholds: Sequence[float],
    closeness: Closeness = intersection_over_union,
    max_detections: int = MAX_DETECTIONS,
) -> MatchedScans:
    """Check the cases and match every scan once, in its own frame (`in_scan_frames`).

    Raises:
        UserError: the lengths differ, there is no scan, a case is malformed, its boxes are not of one scan, or objects
            are points, which nothing overlaps.
    """
    if len(predictions) != len(targets):
        raise UserError(f"{len(predictions)} predicted cases but {len(targets)} target cases; give one per scan")
    if not targets:
        raise UserError("no case to evaluate; give at least one scan")
    framed = in_scan_frames(as_predicted_cases(predictions, classes), as_target_cases(targets, classes))
    found, wanted = framed.predictions, framed.targets
    if closeness is intersection_over_union:
        num_points, num_objects = count_target_points(wanted)
        refuse_points(num_points, num_objects, "an overlap", "score by distance: evaluate --protocol centre")
    matches = match_scans(found, wanted, len(classes), np.array(thresholds), closeness, max_detections)
    return MatchedScans(found, wanted, classes, matches, pool_classes(matches), framed.num_oblique, framed.notes)
