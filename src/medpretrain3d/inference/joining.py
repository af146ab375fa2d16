"""Objects longer than a tile: their pieces, each cut where its tile ends, joined where neighbouring tiles agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.inference.raw_detections import CUT_MARGIN_VOX

MIN_SECTION_IOU = 0.5
"""Of the cross-sections of two pieces; below it they are two objects."""
MIN_SCORE_RATIO = 0.5
"""Of the lower to the higher score of two pieces: a sure piece is not continued by noise."""


@dataclass(frozen=True)
class JoinedPieces:
    """Result of joining pieces: some joined to longer boxes, the others as they were."""

    boxes: Tensor
    """(J, 6)."""
    scores: Tensor
    """(J,) mean over the pieces."""
    num_pieces: Tensor
    """(J,) int64."""
    touches_border: Tensor
    """(J,) bool: the box still ends at a tile's face."""
    owner: Tensor
    """(P,) int64, which of the J each piece went into."""


def join_pieces(boxes: Tensor, scores: Tensor, touches_face: Tensor, regions: Tensor) -> JoinedPieces:
    """Join cut boxes of one class that continue each other across the faces of their tiles.

    Axis by axis, the best-scored piece first: a piece that ends at its tile's high face is continued by one that begins
    at the low face of a tile further on, if both hold all of what the two tiles share along the axis, if their
    cross-sections overlap by `MIN_SECTION_IOU` and their scores differ by less than a factor 1 / `MIN_SCORE_RATIO`; of
    several the one that fits best. Chains grow in both directions.

    Args:
        boxes: (P, 6) in voxels of the volume.
        scores: (P,).
        touches_face: (P, 6) bool, the faces of its tile at which each box ends.
        regions: (P, 6) where the tile of each box sees whole boxes: its faces inside the volume, moved inwards by
            `CUT_MARGIN_VOX`.
    """
    chains = _Chains(boxes, scores, touches_face, regions)
    for axis in range(3):
        chains.grow(axis)
    return chains.joined()


class _Chains:
    """Pieces that are being joined; a piece that was taken up lives on in its chain, under the index of its first."""

    def __init__(self, boxes: Tensor, scores: Tensor, touches_face: Tensor, regions: Tensor) -> None:
        self.box = boxes.double().numpy().copy()
        self.score = scores.double().numpy().copy()
        self.touches = touches_face.numpy().copy()
        margin = np.repeat([-CUT_MARGIN_VOX, CUT_MARGIN_VOX], 3)
        self.face = regions.double().numpy() + margin  # (P, 6) where tiles end
        self.count = np.ones(len(self.box), np.int64)
        self.owner = np.arange(len(self.box))
        self.is_alive = np.ones(len(self.box), bool)

    def grow(self, axis: int) -> None:
        """Join along one axis."""
        at_low, at_high = (np.flatnonzero(self.touches[:, axis + side]) for side in (0, 3))
        if not len(at_low) or not len(at_high):
            return
        from medpretrain3d.inference.joining_kernel import best_continuation

        for first in np.argsort(-self.score, kind="stable"):
            for upwards, own, candidates in ((True, axis + 3, at_low), (False, axis, at_high)):
                while self.is_alive[first] and self.touches[first, own]:
                    state = (self.box, self.face, self.score, self.touches, self.is_alive)
                    limits = (CUT_MARGIN_VOX, MIN_SECTION_IOU, MIN_SCORE_RATIO)
                    second = best_continuation(first, candidates, axis, upwards, *state, *limits)
                    if second < 0:
                        break
                    self._join(first, second, axis, own)

    def _join(self, first: int, second: int, axis: int, own: int) -> None:
        """Take up a piece that continues the chain at the coordinate `own`."""
        for edge in range(6):
            if edge % 3 == axis:
                takes_second = edge == own
            elif self.touches[first, edge] != self.touches[second, edge]:
                takes_second = bool(self.touches[first, edge])  # the one that is not cut there knows the end
            elif self.touches[first, edge]:
                takes_second = (self.box[second, edge] > self.box[first, edge]) == (edge >= 3)  # reaches further
            else:
                weights = self.count[[first, second]]
                self.box[first, edge] = np.average(self.box[[first, second], edge], weights=weights)
                continue
            if takes_second:
                for of in (self.box, self.face, self.touches):
                    of[first, edge] = of[second, edge]
        weights = self.count[[first, second]]
        self.score[first] = np.average(self.score[[first, second]], weights=weights)
        self.count[first] = weights.sum()
        self.is_alive[second] = False
        self.owner[self.owner == second] = first

    def joined(self) -> JoinedPieces:
        """Return the joined boxes and the pieces left as they were."""
        alive = np.flatnonzero(self.is_alive)
        place = np.full(len(self.box), -1)
        place[alive] = np.arange(len(alive))
        return JoinedPieces(
            torch.from_numpy(self.box[alive]).float(),
            torch.from_numpy(self.score[alive]).float(),
            torch.from_numpy(self.count[alive]),
            torch.from_numpy(self.touches[alive].any(axis=1)),
            torch.from_numpy(place[self.owner]),
        )
