"""Which query of a batch is given which object, for all layers of a detector at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from medpretrain3d.detection.labels import BACKGROUND, IGNORED


@dataclass(frozen=True)
class UnitTargets:
    """Objects of one image: unit boxes (N, 6) and labels (N,)."""

    boxes: Tensor
    labels: Tensor


def padded(targets: Sequence[UnitTargets], device: torch.device) -> UnitTargets:
    """Return the objects of all images on a device, filled up to the most of an image: boxes (B, N, 6), labels (B, N).

    Args:
        targets: of each image, on the CPU.
        device: is not waited for.
    """
    boxes = pad_sequence([target.boxes for target in targets], batch_first=True, padding_value=0.5)
    labels = pad_sequence([target.labels for target in targets], batch_first=True)
    return UnitTargets(boxes.to(device, non_blocking=True), labels.to(device, non_blocking=True))


def hungarian(cost: Tensor) -> Tensor:
    """Return the column that each row of a matrix (Q, N) on the CPU is given, `BACKGROUND` for none: (Q,) int64.

    Raises:
        ValueError: a cost that is not finite.
    """
    from scipy.optimize import linear_sum_assignment  # half a second, and only training needs it

    rows, columns = linear_sum_assignment(cost.numpy())
    given = torch.full((len(cost),), BACKGROUND)
    given[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return given


@dataclass(frozen=True)
class SetAssignment:
    """What the queries of L layers are given, without what a prediction that is not finite would learn."""

    labels: Tensor
    """(L, B, Q), the class of each query's object, `BACKGROUND` or `IGNORED`."""
    positive: Tensor
    """(P,), queries with an object, counted through layers and images, rising."""
    boxes: Tensor
    """(P, 6), the unit box of the object of each."""
    counts: list[int]
    """How many of them each layer has."""

    @classmethod
    def of(cls, given: Tensor, finite: Tensor, targets: Sequence[UnitTargets]) -> SetAssignment:
        """Gather what was matched; all is on the CPU.

        Args:
            given: (L, B, Q), for each query an object of its image, `BACKGROUND`, or `IGNORED` where it does not count.
            finite: (L, B, Q) bool, predictions that count.
            targets: of each image.
        """
        num_objects = torch.tensor([len(target.labels) for target in targets])
        first_of_image = num_objects.cumsum(0) - num_objects
        is_positive = (given >= 0) & finite
        objects = (given + first_of_image[:, None])[is_positive]
        labels = torch.full_like(given, BACKGROUND)
        labels[is_positive] = torch.cat([target.labels for target in targets])[objects]
        return cls(
            labels=labels.masked_fill_((given == IGNORED) | ~finite, IGNORED),
            positive=torch.nonzero(is_positive.flatten())[:, 0],
            boxes=torch.cat([target.boxes for target in targets])[objects],
            counts=is_positive.flatten(1).sum(dim=1).tolist(),
        )

    def to(self, device: torch.device) -> SetAssignment:
        """Return the same on a device, without waiting for it."""
        labels, positive, boxes = (
            part.to(device, non_blocking=True) for part in (self.labels, self.positive, self.boxes)
        )
        return SetAssignment(labels, positive, boxes, self.counts)

    def ignoring(self, inside: Tensor) -> SetAssignment:
        """Return the same, with `IGNORED` for queries without an object that are `inside` (L, B, Q) a region."""
        labels = self.labels.masked_fill(inside & (self.labels == BACKGROUND), IGNORED)
        return SetAssignment(labels, self.positive, self.boxes, self.counts)
