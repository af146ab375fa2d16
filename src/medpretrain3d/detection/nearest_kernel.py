"""The compiled search for the nearest cells of each object on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.compiled import compiled, inlined

_compiled = compiled(
    "(float32[:, ::1], float32[:, :], int64, int64[:, ::1])",
    "(float32[:, ::1], float32[:, ::1], int64, int64[:, ::1])",
    error_model="numpy",
)
_inlined = inlined(error_model="numpy")


@_compiled
def nearest_in_blocks(twice: Any, cells: Any, block: int, nearest: Any) -> None:
    """Fill `nearest` (N, count) int64 with the cells nearest to each centre, nearest first, the first of equals.

    Args:
        twice: doubled centres (N, 3) float32.
        cells: boxes (A, 6) float32.
        block: cells whose hull is looked at before they are.
        nearest: is filled.
    """
    num_blocks, count = -(-len(cells) // block), nearest.shape[1]
    low, high = np.empty((num_blocks, 3), np.float32), np.empty((num_blocks, 3), np.float32)
    for b in range(num_blocks):
        # Six numbers rather than two rows of the arrays: 0.3 instead of 0.7 ms for 262,144 cells.
        low_d = low_h = low_w = np.float32(np.inf)
        high_d = high_h = high_w = np.float32(-np.inf)
        for i in range(b * block, min(b * block + block, len(cells))):
            d, h, w = cells[i, 0] + cells[i, 3], cells[i, 1] + cells[i, 4], cells[i, 2] + cells[i, 5]
            low_d, low_h, low_w = min(low_d, d), min(low_h, h), min(low_w, w)
            high_d, high_h, high_w = max(high_d, d), max(high_h, h), max(high_w, w)
        low[b, 0], low[b, 1], low[b, 2] = low_d, low_h, low_w
        high[b, 0], high[b, 1], high[b, 2] = high_d, high_h, high_w
    bound, squared = np.empty(num_blocks, np.float32), np.empty(count, np.float32)
    for n in range(len(twice)):
        for b in range(num_blocks):
            bound[b] = 0
            for axis in range(3):
                gap = max(low[b, axis] - twice[n, axis], twice[n, axis] - high[b, axis], np.float32(0))
                bound[b] += gap * gap
        # The block with the smallest bound gives a radius; then every block within it is looked at, in order.
        closest = np.argmin(bound)
        squared[:] = np.inf
        _look_at(twice[n], cells, closest * block, block, squared, nearest[n])
        radius = squared[count - 1]
        squared[:] = np.inf
        for b in range(num_blocks):
            if bound[b] <= radius:
                _look_at(twice[n], cells, b * block, block, squared, nearest[n])


@_inlined
def _look_at(twice: Any, cells: Any, first: int, block: int, squared: Any, nearest: Any) -> None:
    """Sort the cells of one block into the nearest so far and their distances."""
    last = len(nearest) - 1
    for i in range(first, min(first + block, len(cells))):
        d = cells[i, 0] + cells[i, 3] - twice[0]
        h = cells[i, 1] + cells[i, 4] - twice[1]
        w = cells[i, 2] + cells[i, 5] - twice[2]
        distance = d * d + h * h + w * w
        if distance < squared[last]:
            k = last
            while k > 0 and squared[k - 1] > distance:
                squared[k], nearest[k] = squared[k - 1], nearest[k - 1]
                k -= 1
            squared[k], nearest[k] = distance, i
