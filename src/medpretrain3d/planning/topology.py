"""Strides and kernels of an encoder for voxels that are no cubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Triple = tuple[int, int, int]

SMALLEST_MAP = 4
"""A feature map is not halved below this edge."""


@dataclass(frozen=True)
class Topology:
    """One stride and one kernel per stage, along (D, H, W)."""

    strides: tuple[Triple, ...]
    kernel_sizes: tuple[Triple, ...]

    @property
    def reached(self) -> tuple[Triple, ...]:
        """Stride of each stage in input voxels."""
        products = np.cumprod(np.array(self.strides), axis=0).tolist()
        return tuple((d, h, w) for d, h, w in products)


def plan_topology(spacing_mm: tuple[float, float, float], patch: Triple, num_stages: int) -> Topology:
    """Return nnU-Net's rule: coarse axes wait until the others have come to their spacing.

    A stage halves the axes that keep 4 cells and whose cells are less than twice as long as the shortest of those. Its
    kernel spans 3 cells along an axis from where its cells are less than twice as long as the shortest ones, and 1
    before. The first stage never strides.

    Args:
        spacing_mm: of the training images along (D, H, W).
        patch: in voxels.
        num_stages: of the encoder.
    """
    edge_mm, cells = np.array(spacing_mm, dtype=float), np.array(patch)
    is_wide = np.zeros(3, dtype=bool)
    strides, kernels = [], []
    for stage in range(num_stages):
        can_halve = cells >= 2 * SMALLEST_MAP
        near = edge_mm < 2 * edge_mm[can_halve].min(initial=np.inf)
        step = np.where(can_halve & near, 2, 1) if stage else np.ones(3, dtype=int)
        edge_mm, cells = edge_mm * step, cells // step
        is_wide |= edge_mm < 2 * edge_mm.min()
        strides.append(_triple(step))
        kernels.append(_triple(np.where(is_wide, 3, 1)))
    return Topology(tuple(strides), tuple(kernels))


def _triple(values: np.ndarray) -> Triple:
    d, h, w = (int(value) for value in values)
    return (d, h, w)
