"""The mask of one region, of which no more is kept than what its voxels span.

A scan has a hundred regions or more, and a mask of the whole scan for each is a byte per voxel and region: 17 GB for
104 in a CT of 512 x 512 x 600.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CutOut:
    """A region with at least one voxel.

    Args:
        low: index (i, j, k) of the first voxel of its hull.
        mask: (di, dj, dk) bool, in the hull.
        shape: of the scan.
    """

    low: tuple[int, int, int]
    mask: np.ndarray
    shape: tuple[int, int, int]

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """The hull, by which an array of the scan's shape is indexed."""
        i, j, k = (slice(first, first + size) for first, size in zip(self.low, self.mask.shape, strict=True))
        return i, j, k

    def whole(self) -> np.ndarray:
        """Return the mask on the scan, bool of its shape."""
        result = np.zeros(self.shape, dtype=bool)
        result[self.region] = self.mask
        return result


def cut_out(mask: np.ndarray) -> CutOut | None:
    """Return the part of a scan's mask (i, j, k) that has voxels; None where it has none."""
    ends = []
    for axis in range(3):
        is_there = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(is_there):
            return None
        ends.append((int(is_there[0]), int(is_there[-1]) + 1))
    (i0, i1), (j0, j1), (k0, k1) = ends
    return CutOut((i0, j0, k0), mask[i0:i1, j0:j1, k0:k1].copy(), (mask.shape[0], mask.shape[1], mask.shape[2]))


def cut_out_at(index: np.ndarray, shape: tuple[int, int, int]) -> CutOut:
    """Return the region of voxels (N, 3) of a scan, N at least 1."""
    low = index.min(axis=0)
    mask = np.zeros(index.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((index - low).T)] = True
    return CutOut((int(low[0]), int(low[1]), int(low[2])), mask, shape)


def joined(parts: Sequence[CutOut]) -> CutOut:
    """Return the region of all voxels of one or more."""
    lows = np.array([one.low for one in parts])
    low = lows.min(axis=0)
    high = (lows + [one.mask.shape for one in parts]).max(axis=0)
    mask = np.zeros(high - low, dtype=bool)
    for one, start in zip(parts, (lows - low).tolist(), strict=True):
        i, j, k = (slice(first, first + size) for first, size in zip(start, one.mask.shape, strict=True))
        mask[i, j, k] |= one.mask
    return CutOut((int(low[0]), int(low[1]), int(low[2])), mask, parts[0].shape)
