"""Changing the spacing of voxels, one axis after the other.

Both grids begin at the same edge, so new voxel `o` is centred on old index `(o + 0.5) * step - 0.5`, where `step` is
the new spacing over the old one. Boxes scale by `1 / step` and need no shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def resample_linear(array: np.ndarray, steps: Sequence[float], shape: tuple[int, int, int]) -> np.ndarray:
    """Resample an image (C, d, h, w) to (C, *shape).

    Each voxel is a mean under a triangle as wide as the larger voxel of the two, which is linear interpolation where
    voxels shrink and suppresses aliasing where they grow. Integers are rounded back to their type.

    Args:
        array: any real type.
        steps: new spacing over old spacing, along D, H, W.
        shape: of the result (D, H, W).
    """
    taps = [_taps(*axis) for axis in zip(array.shape[1:], shape, steps, strict=True)]
    if all(
        len(weights) == 1 and size == old for (_, weights), size, old in zip(taps, shape, array.shape[1:], strict=True)
    ):
        return array.copy()
    result = np.empty((len(array), *shape), dtype=array.dtype if array.dtype.kind in "iu" else np.float32)
    (index_d, weights_d), rows, columns = taps
    # Slice by slice: a slice of 512 x 512 stays in the cache, and the only large array is the result.
    for channel, out in zip(array, result, strict=True):
        for d in range(shape[0]):
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
    centre = (np.arange(size) + 0.5) * step - 0.5
    reach = max(step, 1.0)
    first = np.ceil(centre - reach).astype(int)
    index = first + np.arange(int(np.ceil(2 * reach)) + 1)[:, None]
    weights = np.maximum(1 - np.abs(index - centre) / reach, 0)
    weights[(index < 0) | (index >= old_size)] = 0
    index = index.clip(0, old_size - 1)
    # A last voxel that reaches over the end may be centred beyond the last old one: it takes that one's value.
    alone = weights.sum(axis=0) == 0
    weights[0, alone], index[0, alone] = 1, old_size - 1
    weights /= weights.sum(axis=0)
    used = (weights > 1e-6).any(axis=1)
    return index[used], weights[used].astype(np.float32)
