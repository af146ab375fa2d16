"""Changing the spacing of voxels, one axis after the other.

Both grids begin at the same edge, so new voxel `o` is centred on old index `(o + 0.5) * step - 0.5`, where `step` is
the new spacing over the old one. Boxes scale by `1 / step` and need no shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def resample_linear(
    array: np.ndarray, steps: Sequence[float], shape: tuple[int, int, int], slices: range | None = None
) -> np.ndarray:
    """Resample an image (C, d, h, w) to (C, *shape), or to some consecutive slices of that along D.

    Linear interpolation; where voxels grow, the interpolated image is averaged over the new voxel, which suppresses
    aliasing. Constants and, inside, linear ramps stay what they are. Integers are rounded back to their type.

    Args:
        array: any real type.
        steps: new spacing over old spacing, along D, H, W.
        shape: of the result (D, H, W).
        slices: which slices along D of the result to compute; `None` is all of them.
    """
    slices = slices if slices is not None else range(shape[0])
    taps = [_taps(*axis) for axis in zip(array.shape[1:], shape, steps, strict=True)]
    if array.shape[1:] == shape and all(len(weights) == 1 for _, weights in taps):
        return array[:, slices.start : slices.stop].copy()
    (index_d, weights_d), *others = taps
    at = np.arange(slices.start, slices.stop)
    return _weighted(array, [(index_d[:, at], weights_d[:, at]), *others])


def resample_region(
    read: Callable[[Sequence[int], Sequence[int]], np.ndarray],
    old_shape: tuple[int, int, int],
    steps: Sequence[float],
    shape: tuple[int, int, int],
    start: Sequence[int],
    size: Sequence[int],
) -> np.ndarray:
    """Resample a region of an image from the voxels that it takes: bit by bit that of `resample_linear` of the whole.

    Args:
        read: returns the region (C, d, h, w) of the image from a start on, of a size.
        old_shape: of the image (d, h, w).
        steps: new spacing over old spacing, along D, H, W.
        shape: of the whole result (D, H, W).
        start: of the region in the result.
        size: of it, which ends within the result.
    """
    taps = []
    for old_edge, edge, step, first, count in zip(old_shape, shape, steps, start, size, strict=True):
        index, weights = _taps(old_edge, edge, step)
        taps.append((index[:, first : first + count], weights[:, first : first + count]))
    low = [int(index.min()) for index, _ in taps]
    array = read(low, [int(index.max()) + 1 - first for (index, _), first in zip(taps, low, strict=True)])
    return _weighted(array, [(index - first, weights) for (index, weights), first in zip(taps, low, strict=True)])


def _weighted(array: np.ndarray, taps: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the means (C, D, H, W) that the taps of each axis (`_taps`) take of an image (C, d, h, w)."""
    (index_d, weights_d), rows, columns = taps
    result = np.empty(
        (len(array), *(index.shape[1] for index, _ in taps)),
        dtype=array.dtype if array.dtype.kind in "iu" else np.float32,
    )
    # Slice by slice: a slice of 512 x 512 stays in the cache, and the only large array is the result.
    for channel, out in zip(array, result, strict=True):
        for d in range(len(out)):
            plane = sum(w * channel[i].astype(np.float32) for i, w in zip(index_d[:, d], weights_d[:, d], strict=True))
            plane = sum(w[:, None] * plane[i] for i, w in zip(*rows, strict=True))
            plane = sum(w * plane.take(i, axis=1) for i, w in zip(*columns, strict=True))
            out[d] = np.rint(plane) if result.dtype.kind in "iu" else plane
    return result


def resample_nearest(array: np.ndarray, steps: Sequence[float], shape: tuple[int, int, int]) -> np.ndarray:
    """Resample a label map (C, d, h, w) to (C, *shape): each voxel takes the value at its centre."""
    for axis, (step, size) in enumerate(zip(steps, shape, strict=True), start=1):
        index = np.floor((np.arange(size) + 0.5) * step).astype(int)
        array = array.take(np.minimum(index, array.shape[axis] - 1), axis=axis)
    return array


def _taps(old_size: int, size: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Old indices and float32 weights (T, size) of the voxels that each new one is a mean of; weights sum to 1."""
    center = (np.arange(size) + 0.5) * step - 0.5
    # A voxel is a mean over its width, of variance 1/12 in old voxels. The new one lacks (step^2 - 1) / 12, which a
    # mean over this width adds; it vanishes as the steps become equal, so that nothing is blurred without need.
    width = np.sqrt(max(step**2 - 1, 0.0))
    first = np.ceil(center - 1 - width / 2).astype(int)
    index = first + np.arange(int(np.ceil(2 + width)) + 1)[:, None]
    weights = _mean_of_hat(center - index, width)
    weights[(index < 0) | (index >= old_size)] = 0
    index = index.clip(0, old_size - 1)
    # A last voxel that reaches over the end may be centred beyond the last old one: it takes that one's value.
    alone = weights.sum(axis=0) == 0
    weights[0, alone], index[0, alone] = 1, old_size - 1
    weights /= weights.sum(axis=0)
    used = (weights > 1e-6).any(axis=1)
    return index[used], weights[used].astype(np.float32)


def _mean_of_hat(distance: np.ndarray, width: float) -> np.ndarray:
    """Return mean of the hat `max(1 - |t|, 0)` over `distance - width / 2 .. distance + width / 2`.

    Exact integrals make ramps come out exact; a sampled and normalised triangle is off by up to 0.03 voxels.
    """
    if width < 1e-3:
        result: np.ndarray = np.maximum(1 - np.abs(distance), 0)
        return result

    def integral(t: np.ndarray) -> np.ndarray:
        t = t.clip(-1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    result = (integral(distance + width / 2) - integral(distance - width / 2)) / width
    return result
