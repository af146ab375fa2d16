"""Random cuboids in a patch: what pretext tasks blank, keep or mix."""

from __future__ import annotations

import numpy as np

from medpretrain3d.objectives.counter_rng import CounterRNG

Triple = tuple[int, int, int]
Cuboid = tuple[slice, slice, slice]


def random_cuboids(
    draws: CounterRNG, count: int, patch: Triple, smallest: Triple, largest: Triple
) -> tuple[np.ndarray, np.ndarray]:
    """Return cuboids anywhere inside the patch, each edge uniform from `smallest` to `largest` voxels.

    Returns:
        Lowest corners (count, 3) and edges (count, 3), int64, along (D, H, W).
    """
    low, high, size = (np.array(edges) for edges in (smallest, largest, patch))
    edges = draws.integers(low, high, count, 3)
    return draws.integers(0, size - edges, count, 3), edges


def random_cuboid(draws: CounterRNG, patch: Triple, smallest: Triple, largest: Triple, margin: int = 0) -> Cuboid:
    """Return one cuboid that keeps `margin` voxels from the faces of the patch, or as much as its edges leave."""
    edges = [draws.integer(low, high) for low, high in zip(smallest, largest, strict=True)]
    d, h, w = (_place(draws, size, edge, margin) for size, edge in zip(patch, edges, strict=True))
    return (d, h, w)


def slices(corners: np.ndarray, edges: np.ndarray) -> list[Cuboid]:
    """Return lowest corners (N, 3) and edges (N, 3) as N triples of slices."""
    bounds = np.stack([corners, corners + edges], axis=2).tolist()
    return [(slice(*d), slice(*h), slice(*w)) for d, h, w in bounds]


def _place(draws: CounterRNG, size: int, edge: int, margin: int) -> slice:
    room = min(margin, (size - edge) // 2)
    start = draws.integer(room, size - edge - room)
    return slice(start, start + edge)
