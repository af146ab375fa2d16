"""The compiled loops of `placement.place`: each voxel of the patch is looked up in the source once."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_compiled: Any = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
_inlined: Any = numba.njit(inline="always", fastmath=True, error_model="numpy")


@_inlined
def _between(plane: Any, j: int, k: int, q: float, r: float) -> Any:
    low = plane[j, k] + r * (plane[j, k + 1] - plane[j, k])
    high = plane[j + 1, k] + r * (plane[j + 1, k + 1] - plane[j + 1, k])
    return low + q * (high - low)


@_inlined
def _displaced(lattice: Any, axis: int, d: float, h: float, w: float) -> Any:
    """Displacement along `axis` at lattice coordinates, linear between nodes."""
    last = lattice.shape[1] - 1
    i, j, k = min(int(d), last - 1), min(int(h), last - 1), min(int(w), last - 1)
    p, q, r = d - i, h - j, w - k
    near = _between(lattice[axis, i], j, k, q, r)
    return near + p * (_between(lattice[axis, i + 1], j, k, q, r) - near)


@_inlined
def _offset(patch: Any, lattice: Any, d: int, h: int, w: int) -> Any:
    """Offset of a patch voxel's centre from the patch's centre, displacement included."""
    od, oh, ow = d + 0.5 - patch[1] / 2, h + 0.5 - patch[2] / 2, w + 0.5 - patch[3] / 2
    nodes = lattice.shape[1]
    if nodes > 0:
        a = d * (nodes - 1) / max(patch[1] - 1, 1)
        b = h * (nodes - 1) / max(patch[2] - 1, 1)
        c = w * (nodes - 1) / max(patch[3] - 1, 1)
        od += _displaced(lattice, 0, a, b, c)
        oh += _displaced(lattice, 1, a, b, c)
        ow += _displaced(lattice, 2, a, b, c)
    return od, oh, ow


@_compiled
def read_linear(source: Any, matrix: Any, lattice: Any, placed: Any) -> None:
    """Fill `placed` (C, D, H, W) float32 from `source` (C, d, h, w); border voxels go on outside."""
    channels, size_d, size_h, size_w = source.shape
    for d in range(placed.shape[1]):
        for h in range(placed.shape[2]):
            for w in range(placed.shape[3]):
                od, oh, ow = _offset(placed.shape, lattice, d, h, w)
                x = matrix[0, 0] * od + matrix[0, 1] * oh + matrix[0, 2] * ow + size_d / 2 - 0.5
                y = matrix[1, 0] * od + matrix[1, 1] * oh + matrix[1, 2] * ow + size_h / 2 - 0.5
                z = matrix[2, 0] * od + matrix[2, 1] * oh + matrix[2, 2] * ow + size_w / 2 - 0.5
                x = min(max(x, 0.0), size_d - 1.0)
                y = min(max(y, 0.0), size_h - 1.0)
                z = min(max(z, 0.0), size_w - 1.0)
                i, j, k = int(x), int(y), int(z)
                p, q, r = np.float32(x - i), np.float32(y - j), np.float32(z - k)
                i1, j1, k1 = min(i + 1, size_d - 1), min(j + 1, size_h - 1), min(k + 1, size_w - 1)
                for c in range(channels):
                    a = source[c, i, j, k] + r * (source[c, i, j, k1] - np.float32(source[c, i, j, k]))
                    b = source[c, i, j1, k] + r * (source[c, i, j1, k1] - np.float32(source[c, i, j1, k]))
                    e = source[c, i1, j, k] + r * (source[c, i1, j, k1] - np.float32(source[c, i1, j, k]))
                    f = source[c, i1, j1, k] + r * (source[c, i1, j1, k1] - np.float32(source[c, i1, j1, k]))
                    near = a + q * (b - a)
                    placed[c, d, h, w] = near + p * (e + q * (f - e) - near)


@_compiled
def read_nearest(source: Any, matrix: Any, lattice: Any, placed: Any) -> None:
    """Fill `placed` (C, D, H, W) with the values of `source` (C, d, h, w) at the voxels that hold the places."""
    channels, size_d, size_h, size_w = source.shape
    for d in range(placed.shape[1]):
        for h in range(placed.shape[2]):
            for w in range(placed.shape[3]):
                od, oh, ow = _offset(placed.shape, lattice, d, h, w)
                x = matrix[0, 0] * od + matrix[0, 1] * oh + matrix[0, 2] * ow + size_d / 2
                y = matrix[1, 0] * od + matrix[1, 1] * oh + matrix[1, 2] * ow + size_h / 2
                z = matrix[2, 0] * od + matrix[2, 1] * oh + matrix[2, 2] * ow + size_w / 2
                i = min(max(math.floor(x), 0), size_d - 1)
                j = min(max(math.floor(y), 0), size_h - 1)
                k = min(max(math.floor(z), 0), size_w - 1)
                for c in range(channels):
                    placed[c, d, h, w] = source[c, i, j, k]
