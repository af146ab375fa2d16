"""Regions of a volume: one object each, with box, mask and kind; which of many are kept, and why others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Hull = tuple[slice, slice, slice]
Dropped = Counter[str]
"""How many regions were left out, by reason."""
SAME_IOU = 0.8
"""Regions of two thresholds or scales that overlap by more are one object."""


@dataclass(frozen=True, eq=False)
class Region:
    """One object of a volume (D, H, W)."""

    kind: str
    hull: Hull
    """Its voxels lie in here and touch every face."""
    mask: np.ndarray
    """(d, h, w) bool within the hull."""
    rank: float
    """The larger, the sooner kept."""

    @staticmethod
    def of_mask(kind: str, mask: np.ndarray, offset: Sequence[int] = (0, 0, 0), rank: float | None = None) -> Region:
        """Return the region of a mask that has a voxel at least; its rank is its size unless another is given."""
        along = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        d, h, w = (slice(int(axis[0]), int(axis[-1]) + 1) for axis in along)
        tight = mask[d, h, w]
        d, h, w = (slice(one.start + shift, one.stop + shift) for one, shift in zip((d, h, w), offset, strict=True))
        return Region(kind, (d, h, w), tight, float(np.count_nonzero(tight)) if rank is None else rank)

    @property
    def num_voxels(self) -> int:
        """Number of its voxels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box_vox(self) -> tuple[float, ...]:
        """Half-open box (6,) in voxels."""
        return (*(float(axis.start) for axis in self.hull), *(float(axis.stop) for axis in self.hull))

    def iou(self, other: Region) -> float:
        """Return voxels of both over voxels of either."""
        low = [max(a.start, b.start) for a, b in zip(self.hull, other.hull, strict=True)]
        high = [min(a.stop, b.stop) for a, b in zip(self.hull, other.hull, strict=True)]
        if any(start >= stop for start, stop in zip(low, high, strict=True)):
            return 0.0
        parts = []
        for one in (self, other):
            d, h, w = (slice(a - s.start, b - s.start) for a, b, s in zip(low, high, one.hull, strict=True))
            parts.append(one.mask[d, h, w])
        shared = int(np.count_nonzero(parts[0] & parts[1]))
        return shared / (self.num_voxels + other.num_voxels - shared)


def components(kind: str, mask: np.ndarray, min_voxels: float = 1) -> tuple[list[Region], int]:
    """Return the parts of a mask (D, H, W) whose voxels share a face, and the number of those that are smaller."""
    import cc3d

    labels = cc3d.connected_components(mask, connectivity=6)
    found = cc3d.statistics(labels)
    numbers = [number for number, count in enumerate(found["voxel_counts"]) if number and count >= min_voxels]
    regions = []
    for number in numbers:
        d, h, w = found["bounding_boxes"][number]
        regions.append(Region.of_mask(kind, labels[d, h, w] == number, (d.start, h.start, w.start)))
    return regions, len(found["voxel_counts"]) - 1 - len(regions)


def kept(
    regions: Iterable[Region], num: int, volume_cm3: tuple[float, float], voxel_cm3: float, known: Sequence[Region] = ()
) -> tuple[list[Region], Dropped]:
    """Choose regions by size and rank.

    Args:
        regions: to choose from.
        num: most that are kept.
        volume_cm3: smallest and largest volume.
        voxel_cm3: volume of a voxel.
        known: regions kept before, which are not to be found again.

    Returns:
        Those kept, first ranks first, and how many of the others were too small, too large, the same as one that is
        known, or more than `num`.
    """
    dropped: Dropped = Counter()
    fitting = []
    for region in regions:
        volume = region.num_voxels * voxel_cm3
        if volume < volume_cm3[0]:
            dropped["too small"] += 1
        elif volume > volume_cm3[1]:
            dropped["too large"] += 1
        else:
            fitting.append(region)
    fitting.sort(key=lambda region: (-region.rank, region.box_vox))  # nothing depends on the order they came in
    chosen: list[Region] = []
    for region in fitting:
        if len(chosen) == num:
            dropped["more than asked for"] += 1
        elif any(region.iou(other) > SAME_IOU for other in known):
            dropped["the same as another"] += 1
        else:
            chosen.append(region)
    return chosen, dropped
