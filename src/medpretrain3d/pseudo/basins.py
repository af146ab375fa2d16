"""Soft-tissue regions: watershed basins of the Gaussian gradient, ranked by how sharp their edge is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

from medpretrain3d.pseudo.body import Body
from medpretrain3d.pseudo.region import Region
from medpretrain3d.store.resample import resample_linear, resample_nearest

WORK_SHARE = 0.6
"""Finer voxels than this share of the Gaussian's standard deviation are averaged before: they add nothing but time."""


def basins(
    image: np.ndarray,
    spacing_mm: Sequence[float],
    body: Body,
    sigma_mm: float,
    volume_cm3: tuple[float, float],
) -> Iterator[Region]:
    """Return the basins of soft tissue inside the body, ranked by the mean gradient along their edge.

    Basins are flooded where voxels are coarse; those of a size far from `volume_cm3` are not brought back to full size.

    Args:
        image: (D, H, W).
        spacing_mm: along (D, H, W).
        body: where, and what soft tissue is.
        sigma_mm: standard deviation of the Gaussian.
        volume_cm3: smallest and largest volume that is wanted.
    """
    steps = [max(1.0, WORK_SHARE * sigma_mm / step) for step in spacing_mm]
    coarse_mm = [step * factor for step, factor in zip(spacing_mm, steps, strict=True)]
    d, h, w = (max(1, round(size / step)) for size, step in zip(image.shape, steps, strict=True))
    values = resample_linear(image[None], steps, (d, h, w))[0].astype(np.float32)
    inside = resample_nearest(body.mask[None], steps, (d, h, w))[0]
    gradient = gradient_per_mm(np.clip(values, *body.soft), coarse_mm, sigma_mm)
    labels = flooded(gradient, inside)
    count = int(labels.max(initial=0)) + 1
    sizes = np.bincount(labels.ravel(), minlength=count)
    means = np.bincount(labels.ravel(), values.ravel(), minlength=count) / np.maximum(sizes, 1)
    volumes = sizes * np.prod(coarse_mm) / 1000
    is_deep = distance_transform_edt(inside, sampling=coarse_mm) > sigma_mm
    sharpness = edge_sharpness(labels, gradient, is_deep, count)
    is_soft = (means > body.soft[0]) & (means < body.soft[1])
    is_wanted = is_soft & (volumes > 0.5 * volume_cm3[0]) & (volumes < 2 * volume_cm3[1])
    is_wanted[0] = False
    numbers = np.flatnonzero(is_wanted)
    compact = np.zeros(count, dtype=np.int32)
    compact[numbers] = np.arange(1, len(numbers) + 1)
    full = resample_nearest(compact[labels][None], [1 / step for step in steps], image.shape)[0]
    full[~body.mask] = 0
    for place, hull in enumerate(find_objects(full)):
        if hull is not None:
            d, h, w = hull
            mask = full[d, h, w] == place + 1
            yield Region.of_mask("tissue", mask, (d.start, h.start, w.start), float(sharpness[numbers[place]]))


def gradient_per_mm(image: np.ndarray, spacing_mm: Sequence[float], sigma_mm: float) -> np.ndarray:
    """Return the magnitude of the Gaussian gradient (D, H, W) float32, in units of the image per mm."""
    sigma = [sigma_mm / step for step in spacing_mm]
    total = np.zeros(image.shape, dtype=np.float32)
    for axis, step in enumerate(spacing_mm):
        order = [int(axis == other) for other in range(3)]
        total += np.square(gaussian_filter(image, sigma, order=order, mode="nearest", truncate=3.0) / np.float32(step))
    return np.sqrt(total)


def flooded(height: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the basin of every voxel (D, H, W) int64 from 1, 0 outside: where steepest descent ends (26 neighbours).

    Of equally low neighbours the one that comes first in memory is taken, which makes a plateau one basin or few.
    """
    lowest = np.where(inside, height, np.inf).astype(np.float32)
    padded = np.pad(lowest, 1, constant_values=np.inf)
    index = np.arange(height.size, dtype=np.int64).reshape(height.shape)
    padded_index = np.pad(index, 1, constant_values=height.size)
    best, target = lowest.copy(), index.copy()
    for d, h, w in product(range(3), repeat=3):
        part = tuple(slice(start, start + size) for start, size in zip((d, h, w), height.shape, strict=True))
        other, its_index = padded[part], padded_index[part]
        is_lower = (other < best) | ((other == best) & (its_index < target))
        best = np.where(is_lower, other, best)
        target = np.where(is_lower, its_index, target)
    root = np.where(inside, target, index).ravel()
    while True:
        further = root[root]
        if np.array_equal(further, root):
            break
        root = further
    labels = np.zeros(height.size, dtype=np.int64)
    flat = inside.ravel()
    labels[flat] = np.unique(root[flat], return_inverse=True)[1].ravel() + 1
    return labels.reshape(height.shape)


def edge_sharpness(labels: np.ndarray, gradient: np.ndarray, is_deep: np.ndarray, count: int) -> np.ndarray:
    """Return the mean gradient (count,) along the faces between each basin and others; 0 for one without neighbours.

    Faces that are not deep in the body count as if there were no gradient: skin is no edge of an organ.
    """
    total, faces = np.zeros(count), np.zeros(count)
    heights = np.where(is_deep, gradient, 0)
    for axis in range(3):
        size = labels.shape[axis] - 1
        first, second = (labels.take(range(n, size + n), axis) for n in (0, 1))
        edge = np.maximum(*(heights.take(range(n, size + n), axis) for n in (0, 1)))
        is_edge = (first != second) & (first > 0) & (second > 0)
        for side in (first, second):
            total += np.bincount(side[is_edge], edge[is_edge], minlength=count)
            faces += np.bincount(side[is_edge], minlength=count)
    return np.asarray(total / np.maximum(faces, 1))
