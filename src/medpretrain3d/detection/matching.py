"""Which anchor is responsible for which object.

A matcher is called with targets (N, 6), anchors (A, 6), the number of anchors on each level and of each cell. It
returns for every anchor the index of its object: (A,) int64, `BACKGROUND` (-1) for none, `IGNORED` (-2) for neither.
Anchors come in the order of `AnchorGrid`: by level, then cell, and the anchors of one cell share their centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medpretrain3d.boxes import box_iou, generalized_box_iou
from medpretrain3d.description import Described
from medpretrain3d.detection.sampling import BACKGROUND, IGNORED


class Matcher(Described):
    """Assigns objects to anchors. Subclasses implement the call."""

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Index of the matched target per anchor: (A,) int64; see the module."""
        raise NotImplementedError("a Matcher subclass implements the call")


class ATSSMatcher(Matcher):
    """Adaptive training sample selection (Zhang et al., 2020), in the variant of nnDetection.

    Candidates of an object are all anchors of its `num_candidates` nearest cells on every level. Those whose IoU
    reaches the mean plus the (unbiased) standard deviation of the candidates' IoUs are positive. An anchor claimed by
    several objects goes to the one with the higher IoU.

    Args:
        num_candidates: nearest cells per object and level.
        rule: `"nndetection"` stops there, which has two gaps. An object that touches none of its candidates makes all
            of them positive, because the threshold is 0. An object none of whose candidates reaches the threshold, or
            whose candidates all went to others, is never learnt. `"house"` closes both: an anchor that does not touch
            the object is not positive, and an object left without anchor gets its best candidate alone (the nearest
            if it touches none).
    """

    def __init__(self, num_candidates: int = 4, rule: Literal["house", "nndetection"] = "house") -> None:
        self.num_candidates = num_candidates
        self.rule = rule

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Index of the matched target per anchor: (A,) int64, -1 for background."""
        matched = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        if len(targets) == 0:
            return matched
        targets, anchors = targets.float(), anchors.float()
        candidates = self._candidates(targets, anchors, anchors_per_level, anchors_per_location)  # (N, M)
        iou = _candidate_iou(targets, anchors, candidates)  # (N, M)
        deviation = iou.std(dim=1, correction=min(1, iou.shape[1] - 1), keepdim=True)  # a single candidate has none
        positive = iou >= iou.mean(dim=1, keepdim=True) + deviation
        if self.rule == "house":
            positive &= iou > 0

        objects, columns = torch.nonzero(positive, as_tuple=True)
        for_anchor, claim = candidates[objects, columns], iou[objects, columns]
        best = torch.full((len(anchors),), -1.0, device=anchors.device)
        best.scatter_reduce_(0, for_anchor, claim, "amax")
        wins = claim == best[for_anchor]
        matched.scatter_reduce_(
            0, for_anchor[wins], objects[wins], "amin", include_self=False
        )  # equal: the first object
        if self.rule == "house":
            self._serve_the_unmatched(matched, targets, anchors, candidates, iou)
        return matched

    def _candidates(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Anchors of the nearest cells of every level: (N, M) int64. Looks at cells, not at their many anchors."""
        target_center = (targets[:, :3] + targets[:, 3:]) / 2
        cells = anchors[::anchors_per_location]
        cell_center = (cells[:, :3] + cells[:, 3:]) / 2
        of_cell = torch.arange(anchors_per_location, device=anchors.device)
        candidates, start = [], 0
        for num_anchors in anchors_per_level:
            num_cells = num_anchors // anchors_per_location
            # Differences, not the product form of cdist: that one loses the order of near ties at large coordinates.
            distance_vox = torch.cdist(
                target_center,
                cell_center[start : start + num_cells],
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            nearest = distance_vox.topk(min(self.num_candidates, num_cells), largest=False).indices + start
            candidates.append((nearest[:, :, None] * anchors_per_location + of_cell).flatten(1))
            start += num_cells
        return torch.cat(candidates, dim=1)

    @staticmethod
    def _serve_the_unmatched(
        matched: Tensor, targets: Tensor, anchors: Tensor, candidates: Tensor, iou: Tensor
    ) -> None:
        """Give each object without anchor its best candidate, unless that is another object's only one."""
        counts = torch.bincount(matched[matched >= 0], minlength=len(targets)).tolist()
        unmatched = [index for index, count in enumerate(counts) if count == 0]
        for index in sorted(unmatched, key=iou.amax(dim=1).tolist().__getitem__, reverse=True):
            choice, closeness = candidates[index], iou[index]
            if bool((closeness > 0).any()):
                choice, closeness = choice[closeness > 0], closeness[closeness > 0]
            else:  # it touches none of them; GIoU still tells near from far
                closeness = generalized_box_iou(targets[index : index + 1], anchors[choice])[0]
            for anchor in choice[closeness.argsort(descending=True, stable=True)].tolist():
                owner = int(matched[anchor])
                if owner == BACKGROUND or counts[owner] > 1:
                    if owner != BACKGROUND:
                        counts[owner] -= 1
                    matched[anchor], counts[index] = index, 1
                    break


class IoUMatcher(Matcher):
    """Fixed thresholds (Ren et al., 2015): from `high` on an object, below `low` background, ignored in between.

    Args:
        low: IoU below which an anchor is background.
        high: IoU from which an anchor belongs to its best object.
        allow_low_quality: the best anchors of an object belong to it also below `high`, if they touch it.
    """

    def __init__(self, low: float = 0.4, high: float = 0.5, allow_low_quality: bool = True) -> None:
        self.low = low
        self.high = high
        self.allow_low_quality = allow_low_quality

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Index of the matched target per anchor: (A,) int64, -1 for background, -2 for ignored."""
        best_iou = anchors.new_full((len(anchors),), -1.0, dtype=torch.float32)
        best_target = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        low_quality = best_target.clone()
        # One object at a time: a row of the (N, A) matrix is all that is ever needed.
        for index in range(len(targets)):
            iou = box_iou(targets[index : index + 1], anchors)[0]
            better = iou > best_iou
            best_target[better] = index
            best_iou = torch.maximum(best_iou, iou)
            if self.allow_low_quality and iou.max() > 0:
                low_quality[iou == iou.max()] = index
        matched = torch.where(best_iou >= self.high, best_target, IGNORED)
        matched[best_iou < self.low] = BACKGROUND
        return torch.where((low_quality >= 0) & (matched < 0), low_quality, matched)


def _candidate_iou(targets: Tensor, anchors: Tensor, candidates: Tensor) -> Tensor:
    """IoU of each target (N, 6) with its own candidates (N, M): (N, M). The full (N, A) matrix is never built."""
    return torch.cat([box_iou(target[None], anchors[row]) for target, row in zip(targets, candidates, strict=True)])
