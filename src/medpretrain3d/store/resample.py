"""Changing the spacing of voxels, one axis after the other.

Both grids begin at the same edge, so new voxel `o` is centred on old index `(o + 0.5) * step - 0.5`, where `step` is
the new spacing over the old one. Boxes scale by `1 / step` and need no shift.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    result = np.empty(
        (len(array), len(slices), *shape[1:]), dtype=array.dtype if array.dtype.kind in "iu" else np.float32
    )
    (index_d, weights_d), rows, columns = taps
    # Slice by slice: a slice of 512 x 512 stays in the cache, and the only large array is the result.
    for channel, out in zip(array, result, strict=True):
        for position, d in enumerate(slices):
            plane = sum(w * channel[i].astype(np.float32) for i, w in zip(index_d[:, d], weights_d[:, d], strict=True))
            plane = sum(w[:, None] * plane[i] for i, w in zip(*rows, strict=True))
            plane = sum(w * plane.take(i, axis=1) for i, w in zip(*columns, strict=True))
            out[position] = np.rint(plane) if result.dtype.kind in "iu" else plane
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
