"""Hard negatives: false positives of an earlier detector in the training cases, around which crops are placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.store.case import Case
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.points import near_points

MIN_WEIGHT = 1e-6
"""Of a false positive with a score of 0, which has a chance all the same where there is no other."""


@dataclass(frozen=True, eq=False)
class HardNegatives:
    """False positives of training cases, drawn with chances in proportion to their scores."""

    cases: tuple[CaseRef, ...]
    """(N,) of each false positive."""
    boxes: np.ndarray
    """(N, 6) float64 in voxels of the case's grid."""
    scores: np.ndarray
    """(N,)."""
    share: float
    """Of the crops that would be placed anywhere, how many are placed on one."""
    num_train_cases: int
    num_touching: int
    """Candidates of training cases left out because they touch an annotated object or an ignore region, or hit a
    point."""
    num_elsewhere: int
    """Candidates left out because they are in no training case."""

    @staticmethod
    def among(candidates: Mapping[str, Detections], train_cases: Sequence[CaseRef], share: float) -> HardNegatives:
        """Take the false positives of the training cases.

        Args:
            candidates: of each case in voxels of its grid, found by a detector that was not trained on it.
            train_cases: of the run.
            share: of the crops that would be placed anywhere, how many are placed on a false positive.

        Raises:
            UserError: no candidate is a false positive in a training case.
        """
        refs: list[CaseRef] = []
        boxes, scores = [np.zeros((0, 6))], [np.zeros(0)]
        num_touching = 0
        for ref in train_cases:
            found = candidates.get(ref.case_id)
            if found is None or not len(found.boxes):
                continue
            own = found.boxes.numpy().astype(np.float64)
            is_false = ~touches_annotation(own, ref.open())
            num_touching += int((~is_false).sum())
            boxes.append(own[is_false])
            scores.append(found.scores.numpy()[is_false].astype(np.float64))
            refs += [ref] * int(is_false.sum())
        num_elsewhere = sum(len(one.boxes) for one in candidates.values()) - len(refs) - num_touching
        result = HardNegatives(
            tuple(refs),
            np.concatenate(boxes),
            np.concatenate(scores),
            share,
            len(train_cases),
            num_touching,
            num_elsewhere,
        )
        if not refs:
            raise UserError(
                f"data.hard_negatives: {result}; wanted false positives of training cases: leave the option out, or "
                "give predictions with a lower score_threshold"
            )
        return result

    def __len__(self) -> int:
        return len(self.cases)

    def __str__(self) -> str:
        num_cases = len({ref.case_id for ref in self.cases})
        return (
            f"{len(self)} hard negatives in {num_cases} of {self.num_train_cases} training cases; left out: "
            f"{self.num_touching} candidates that touch an annotated object or a region to ignore, "
            f"{self.num_elsewhere} in no training case"
        )

    @cached_property
    def _upper(self) -> np.ndarray:
        upper = np.cumsum(np.maximum(self.scores, MIN_WEIGHT))
        return np.asarray(upper / upper[-1])

    def draw(self, random: np.random.Generator) -> tuple[CaseRef, np.ndarray]:
        """Return the case and the box (6,) of a random one."""
        index = min(int(np.searchsorted(self._upper, random.random(), side="right")), len(self) - 1)
        return self.cases[index], self.boxes[index]


def touches_annotation(boxes: np.ndarray, case: Case) -> np.ndarray:
    """Return which boxes (N, 6) have a point in common with an object or ignore region of a case, faces included.

    A point has no face that a small box would meet: it is touched by all that hit it, from as far as a hit may be.
    """
    annotated = np.concatenate([case.boxes, case.ignore_boxes]).astype(np.float64)
    low = np.maximum(boxes[:, None, :3], annotated[None, :, :3])
    high = np.minimum(boxes[:, None, 3:], annotated[None, :, 3:])
    is_near = near_points(boxes, case.boxes.astype(np.float64), case.grid.spacing_mm).any(axis=1)
    return np.asarray((low <= high).all(axis=2).any(axis=1) | is_near)
