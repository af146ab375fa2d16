"""Out-of-fold candidates as samples of a second stage: where they are, their scores, and which are objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.boxes import Detections
from medpretrain3d.cross_validation.candidates import held_out_in, read_candidates, refuse_other_scans
from medpretrain3d.cross_validation.known_cases import known_by
from medpretrain3d.cross_validation.validation_scores import HIT_IOU
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.center_distance import JUST_INSIDE, closeness, match_objects
from medpretrain3d.evaluation.protocols import CENTER, protocol_of
from medpretrain3d.store.case import Case
from medpretrain3d.store.points import POINT_RADIUS_MM
from medpretrain3d.store.store import Store


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """Candidates of all cases of a cross-validation, and the fold that held out each case."""

    found: Mapping[str, Detections]
    """Of each case, in voxels of its grid in the store."""
    is_object: Mapping[str, np.ndarray]
    """(N,) bool of each case's candidates: it hits an object of its class."""
    is_sample: Mapping[str, np.ndarray]
    """(N,) bool: it hits an object, or is a false positive without doubt."""
    fold_of: Mapping[str, int]

    def training_cases(self, store: Store, fold: int) -> list[str]:
        """Return the cases from which the second stage of a fold learns.

        None that the fold holds out, nor a copy or another scan of a patient of one.
        """
        held_out = known_by(store, [case for case in self.found if self.fold_of[case] == fold])
        return [case for case in self.found if not known_by(store, [case]) & held_out]

    def summary(self, cases: Collection[str]) -> str:
        """Return how many candidates of some cases are samples, for a user."""
        objects, samples, every = (
            sum(int(one.sum()) for one in parts)
            for parts in (
                [self.is_object[case] & self.is_sample[case] for case in cases],
                [self.is_sample[case] for case in cases],
                [np.ones_like(self.is_sample[case]) for case in cases],
            )
        )
        return (
            f"{objects} hits and {samples - objects} false positives of {len(cases)} cases; left out: "
            f"{every - samples} candidates that touch an object of their class without hitting it or lie in a region "
            "to ignore"
        )


def read_candidate_set(
    path: Path,
    store: Store,
    paired: Sequence[PredictedCase],
    targets: Sequence[TargetCase],
    classes: Sequence[str],
    is_by_distance: bool = False,
) -> CandidateSet:
    """Read candidates and say which are objects, by the protocol of `cross-validate`: IoU 0.1, or distance of points.

    Args:
        path: predictions.json of `cross-validate`.
        store: of its cases.
        paired: the same predictions in mm, in the order of the targets.
        targets: what there is.
        classes: name of each label.
        is_by_distance: whether boxes are hit by distance, too.

    Raises:
        UserError: see `read_candidates` and `refuse_other_scans`; or a case is not in the store.
    """
    found = read_candidates(path, store)
    if strangers := [case for case in found if case not in store.entries]:
        raise UserError(
            f"{store.place}: does not hold {len(strangers)} cases of {path}, first '{strangers[0]}'; name the store of "
            "the cross-validation"
        )
    refuse_other_scans(path, store)
    is_object = {case: np.zeros(len(one), bool) for case, one in found.items()}
    is_sample = {case: np.zeros(len(one), bool) for case, one in found.items()}
    for matches in match_objects(paired, targets, classes, HIT_IOU, is_by_distance=is_by_distance).classes:
        assert matches.detection is not None
        for scan, row, is_hit, counts in zip(
            matches.scan, matches.detection, matches.is_hit[0], matches.counts_always, strict=True
        ):
            case = targets[scan].case
            is_object[case][row] = is_hit
            is_sample[case][row] = is_hit or counts
    is_near_enough = protocol_of(targets, is_by_distance) is CENTER
    for case, one in found.items():
        is_sample[case] &= is_object[case] | ~_touches_own_class(one, store.case(case), is_near_enough)
    return CandidateSet(found, is_object, is_sample, held_out_in(path))


def _touches_own_class(found: Detections, case: Case, is_by_distance: bool) -> np.ndarray:
    """Return which boxes have a point in common with an object of their class, faces included: (N,) bool.

    Where hits are by distance, those near enough to hit one belong to it as well, however small they are.
    """
    boxes, objects = found.boxes.numpy(), case.boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :3], objects[None, :, :3])
    high = np.minimum(boxes[:, None, 3:], objects[None, :, 3:])
    is_touched = (low <= high).all(axis=2)  # (N, G)
    if is_by_distance:
        edges_mm = np.tile(case.grid.spacing_mm, 2)
        is_touched |= closeness("radius", POINT_RADIUS_MM)(boxes * edges_mm, objects * edges_mm) >= JUST_INSIDE
    is_alike = found.labels.numpy()[:, None] == case.labels[None]
    return np.asarray((is_touched & is_alike).any(axis=1))
