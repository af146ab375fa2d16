"""A linear probe: points drawn once, the layer fitted on one set of scans and judged on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.errors import UserError
from medpretrain3d.probing.effective_rank import effective_rank
from medpretrain3d.probing.linear import LinearClassifier
from medpretrain3d.probing.points import ProbePoints, sample_points
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.normalization import Normalization

FeaturesOf = Callable[[Iterator[tuple[Tensor, ProbePoints]]], list[np.ndarray]]
"""From crops and points to the features (N, C) of each level."""


class ProbedFeatures(NamedTuple):
    """What the judged points show of one level."""

    num_channels: int
    effective_rank: float
    """From 1 to `num_channels`; NaN where features are not finite."""
    log_odds: np.ndarray
    """(M,) that each point lies in an object."""


@dataclass(eq=False)
class LinearProbe:
    """What is asked of every encoder: crops, points, and which of them lie in objects.

    Args:
        train: cases on which the linear layer is fitted.
        judged: cases on which it is judged.
        patch: (D, H, W) of crops in voxels.
        window: from stored intensities to the encoder's input.
        crops_per_case: of each case.
        points_per_crop: of each crop.
        label: class that is told from background; None for all.
        seed: of crops and points.

    Raises:
        UserError: a set of scans without points in objects, or with no others.
    """

    train: Sequence[CaseRef]
    judged: Sequence[CaseRef]
    patch: tuple[int, int, int]
    window: Normalization
    crops_per_case: int = 4
    points_per_crop: int = 64
    label: int | None = None
    seed: int = 0
    is_train_object: np.ndarray = field(init=False)
    """(N,) bool of the points that fit."""
    is_object: np.ndarray = field(init=False)
    """(M,) bool of the points that judge."""
    patient: np.ndarray = field(init=False)
    """(M,) number of each one's patient."""

    def __post_init__(self) -> None:
        train, judged = ([points for _, points in self._points(cases)] for cases in (self.train, self.judged))
        self.is_train_object, self.is_object = (
            np.concatenate([one.is_object for one in points]) for points in (train, judged)
        )
        for is_object, name in ((self.is_train_object, "fit"), (self.is_object, "judge")):
            if is_object.all() or not is_object.any():
                raise UserError(
                    f"of {is_object.size} points that {name} {int(is_object.sum())} lie in objects; wanted some inside "
                    "and some outside: more crops, another split, or another class"
                )
        numbers: dict[tuple[int, str] | str, int] = {}
        number = {one.case_id: numbers.setdefault(one.patient or one.case_id, len(numbers)) for one in self.judged}
        self.patient = np.concatenate([np.full(one.is_object.size, number[one.case_id]) for one in judged])

    def probed(self, features_of: FeaturesOf) -> list[ProbedFeatures]:
        """Return what the judged points show of each level and, of several, last of all joined."""
        fitted, judged = (features_of(self._points(cases)) for cases in (self.train, self.judged))
        pairs = list(zip(fitted, judged, strict=True))
        if len(pairs) > 1:
            pairs.append((np.concatenate(fitted, axis=1), np.concatenate(judged, axis=1)))
        return [
            ProbedFeatures(
                one.shape[1],
                effective_rank(torch.from_numpy(other)),
                LinearClassifier.fitted(one, self.is_train_object).log_odds(other),
            )
            for one, other in pairs
        ]

    def _points(self, cases: Sequence[CaseRef]) -> Iterator[tuple[Tensor, ProbePoints]]:
        return sample_points(
            cases, self.patch, self.window, self.crops_per_case, self.points_per_crop, self.label, self.seed
        )
