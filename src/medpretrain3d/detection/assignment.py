"""Which dense predictions of a batch learn which objects.

It is found on the CPU, where the loops over objects are compiled and no step of them waits for a device: neither the
targets nor the anchors come from the network, so a GPU computes its forward pass meanwhile. What the losses need of it,
a few numbers for each positive anchor, is sent to the device at once; how many these are the host knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.detection.matching import Matcher, ignore_background


@dataclass(frozen=True)
class Assignment:
    """The anchors of all images that belong to an object (P,), and those that do not count, on the CPU.

    Anchors are counted through the batch: number `a` of image `b` is `b * A + a`.
    """

    num_anchors: int
    """Of all images."""
    positive: Tensor
    """(P,) rising."""
    ignored: Tensor
    """(I,)"""
    labels: Tensor
    """(P,), the class of each positive anchor's object."""
    boxes: Tensor
    """(P, 6), its box."""
    anchors: Tensor
    """(P, 6)"""

    @classmethod
    def of(cls, matched: Tensor, targets: Sequence[Targets], anchors: Tensor) -> Assignment:
        """Gather what was matched.

        Args:
            matched: (B, A), for each anchor of each image its object, `BACKGROUND` or `IGNORED`.
            targets: of each image, on the CPU.
            anchors: (A, 6).
        """
        flat = matched.flatten()
        positive = torch.nonzero(flat >= 0)[:, 0]
        counts = torch.tensor([len(target.labels) for target in targets])
        first_of_image = counts.cumsum(0) - counts
        objects = flat[positive] + first_of_image[positive // len(anchors)]
        return cls(
            num_anchors=len(flat),
            positive=positive,
            ignored=torch.nonzero(flat == IGNORED)[:, 0],
            labels=torch.cat([target.labels for target in targets])[objects],
            boxes=torch.cat([target.boxes for target in targets])[objects],
            anchors=anchors[positive % len(anchors)],
        )

    def only(self, counts: Tensor) -> Assignment:
        """Return the same without the positive anchors that do not count; `counts` (B * A,) is on the CPU."""
        kept = counts[self.positive]
        return Assignment(
            self.num_anchors, self.positive[kept], self.ignored, self.labels[kept], self.boxes[kept], self.anchors[kept]
        )

    def to(self, device: torch.device) -> Assignment:
        """Return the same on a device, without waiting for it."""
        parts = self.positive, self.ignored, self.labels, self.boxes, self.anchors
        return Assignment(self.num_anchors, *[part.to(device, non_blocking=True) for part in parts])

    def class_of_anchors(self) -> Tensor:
        """Return for each anchor of the batch the class of its object, `BACKGROUND` or `IGNORED`: (B * A,) int64."""
        of_anchor = torch.full((self.num_anchors,), BACKGROUND, device=self.positive.device)
        of_anchor.index_fill_(0, self.ignored, IGNORED)
        return of_anchor.index_copy_(0, self.positive, self.labels)


def assign(
    matcher: Matcher, targets: Sequence[Targets], anchors: Tensor, anchors_per_level: Sequence[int], per_cell: int
) -> Assignment:
    """Match the objects and ignore regions of a batch with anchors.

    Args:
        matcher: objects to anchors.
        targets: of each image, on the CPU.
        anchors: (A, 6) on the CPU, the same in each image.
        anchors_per_level: their number on each level.
        per_cell: their number on each cell.
    """
    regions = {row: target.ignore for row, target in enumerate(targets) if target.ignore is not None}
    regions = {row: boxes for row, boxes in regions.items() if len(boxes)}
    asked = [*(target.boxes for target in targets), *regions.values()]
    found = matcher.match_images(asked, anchors, anchors_per_level, per_cell)  # (B + images with regions, A)
    matched = found[: len(targets)]
    for as_objects, (row, boxes) in zip(found[len(targets) :], regions.items(), strict=True):
        matched[row] = ignore_background(matched[row], anchors, boxes, as_objects)
    return Assignment.of(matched, targets, anchors)
