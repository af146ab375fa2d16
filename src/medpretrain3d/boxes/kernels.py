"""The loops over boxes that torch cannot fuse, compiled by numba when first used.

Import this module only where one of them is called: numba takes half a second to import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpretrain3d.compiled import compiled

MAX_CELLS_PER_AXIS = 64
"""Of the grid of `suppress`: 64^3 list heads are 1 MB."""
MIN_EDGE = 0.1
"""Least edge of a cell in mean extents."""
LARGE = 4.0
"""A box longer than this many mean extents is not put into the grid; every box is compared with it."""


Box = tuple[Any, Any, Any, Any, Any, Any]
_MATRIX = "(float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32[:, ::1])"


@compiled()
def _overlap(box: Box, volume: Any, b: NDArray[Any], volume_b: NDArray[Any], j: int) -> tuple[Any, Any]:
    """Return volume of the intersection and of the union of a box with box `j`."""
    d0, h0, w0, d1, h1, w1 = box
    zero = b.dtype.type(0)
    d = (d1 if d1 < b[3, j] else b[3, j]) - (d0 if d0 > b[0, j] else b[0, j])
    h = (h1 if h1 < b[4, j] else b[4, j]) - (h0 if h0 > b[1, j] else b[1, j])
    w = (w1 if w1 < b[5, j] else b[5, j]) - (w0 if w0 > b[2, j] else b[2, j])
    intersection = (d if d > zero else zero) * (h if h > zero else zero) * (w if w > zero else zero)
    return intersection, volume + volume_b[j] - intersection


@compiled()
def _hull(box: Box, b: NDArray[Any], j: int) -> Any:
    """Return volume of the smallest box around a box and box `j`."""
    d0, h0, w0, d1, h1, w1 = box
    d = (d1 if d1 > b[3, j] else b[3, j]) - (d0 if d0 < b[0, j] else b[0, j])
    h = (h1 if h1 > b[4, j] else b[4, j]) - (h0 if h0 < b[1, j] else b[1, j])
    w = (w1 if w1 > b[5, j] else b[5, j]) - (w0 if w0 < b[2, j] else b[2, j])
    return d * h * w


@compiled(_MATRIX)
def iou_matrix(
    a: NDArray[Any], b: NDArray[Any], volume_a: NDArray[Any], volume_b: NDArray[Any], out: NDArray[Any]
) -> None:
    """Write into `out` (N, M) the IoU of boxes (N, 6) with boxes by coordinate (6, M), given the volumes of both."""
    zero = a.dtype.type(0)
    tiny = np.finfo(a.dtype).tiny
    for i in range(a.shape[0]):
        box = (a[i, 0], a[i, 1], a[i, 2], a[i, 3], a[i, 4], a[i, 5])
        volume = volume_a[i]
        for j in range(b.shape[1]):
            intersection, union = _overlap(box, volume, b, volume_b, j)
            ratio = intersection / (union if union > tiny else tiny)
            out[i, j] = ratio if union > zero else zero


# No divisor is 0. Were each asked whether it is, the loop would not be one of vectors: 9 times as slow.
@compiled(_MATRIX, error_model="numpy")
def giou_matrix(
    a: NDArray[Any], b: NDArray[Any], volume_a: NDArray[Any], volume_b: NDArray[Any], out: NDArray[Any]
) -> None:
    """Write the generalized IoU into `out`; arguments as in `iou_matrix`."""
    tiny = np.finfo(a.dtype).tiny
    for i in range(a.shape[0]):
        box = (a[i, 0], a[i, 1], a[i, 2], a[i, 3], a[i, 4], a[i, 5])
        volume = volume_a[i]
        for j in range(b.shape[1]):
            intersection, union = _overlap(box, volume, b, volume_b, j)
            hull = _hull(box, b, j)
            # `tiny if x < tiny` rather than its mirror image: NaN stays NaN, as in torch.
            overlap = intersection / (tiny if union < tiny else union)
            out[i, j] = overlap - (hull - union) / (tiny if hull < tiny else hull)


@compiled()
def _iou(boxes: NDArray[Any], volumes: NDArray[Any], i: int, j: int) -> Any:
    intersection = boxes.dtype.type(1)
    for axis in range(3):
        edge = min(boxes[i, axis + 3], boxes[j, axis + 3]) - max(boxes[i, axis], boxes[j, axis])
        intersection *= max(edge, boxes.dtype.type(0))
    return intersection / (volumes[i] + volumes[j] - intersection)


@compiled("(float32[:, ::1], float32[::1], float32, boolean)")
def suppress(boxes: NDArray[Any], volumes: NDArray[Any], iou_threshold: float, finds_best: bool) -> NDArray[np.int64]:
    """Run NMS on (N, 6) boxes, best first, finite and with volume: (N,), index of each one's suppressor, or its own.

    Of several kept boxes it names the best one if `finds_best`, else any, which is faster.

    Kept boxes hang in the cells of a grid by their centre. The IoU t of two boxes is at most that of their extents a
    and b along any axis, so that their centres are no farther apart than (a + b) (1 - t) / (2 (1 + t)), and neither
    extent is more than 1 / t of the other: a box looks only into the cells within that reach. The few boxes much longer
    than the others would stretch it for all, and stand in a list of their own.
    """
    closeness = max(0.0, (1 - iou_threshold) / (1 + iou_threshold)) * 1.001  # the IoU compared is rounded
    count = boxes.shape[0]
    center = np.empty((count, 3))
    extent = np.empty((count, 3))
    for axis in range(3):
        center[:, axis] = 0.5 * boxes[:, axis] + 0.5 * boxes[:, axis + 3]
        extent[:, axis] = boxes[:, axis + 3] - boxes[:, axis]
    low, mean_extent, reach = np.empty(3), np.empty(3), np.zeros(3)
    edge = np.empty(3)
    cells = np.empty(3, np.int64)
    large = np.zeros(count, np.bool_)
    for axis in range(3):
        low[axis] = center[:, axis].min()
        span = center[:, axis].max() - low[axis]
        mean_extent[axis] = extent[:, axis].mean()
        edge[axis] = max(mean_extent[axis] * max(closeness, MIN_EDGE), span / (MAX_CELLS_PER_AXIS - 1))
        cells[axis] = int(span / edge[axis]) + 1
        large |= extent[:, axis] > LARGE * mean_extent[axis]
    for axis in range(3):
        for i in range(count):
            if not large[i] and extent[i, axis] > reach[axis]:
                reach[axis] = extent[i, axis]

    head = np.full((cells[0], cells[1], cells[2]), -1)
    following = np.full(count, -1)  # the next kept box of the same cell
    large_kept = np.empty(count, np.int64)
    num_large = 0
    winner = np.arange(count)
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(count):
        for axis in range(3):
            others = reach[axis]
            if others * iou_threshold > extent[i, axis] * 1.001:
                others = extent[i, axis] * 1.001 / iou_threshold
            radius = (extent[i, axis] + others) / 2 * closeness
            place = center[i, axis] - low[axis]
            first[axis] = int(max(0.0, (place - radius) / edge[axis] - 1e-6))
            last[axis] = int(min(cells[axis] - 1.0, (place + radius) / edge[axis] + 1e-6))
        for k in range(num_large):
            if _iou(boxes, volumes, i, large_kept[k]) > iou_threshold:
                winner[i] = large_kept[k]
                break
        for d in range(first[0], last[0] + 1):
            for h in range(first[1], last[1] + 1):
                for w in range(first[2], last[2] + 1):
                    other = head[d, h, w]
                    while other >= 0 and (finds_best or winner[i] == i):
                        if other < winner[i] and _iou(boxes, volumes, i, other) > iou_threshold:
                            winner[i] = other
                        other = following[other]
        if winner[i] == i and large[i]:
            large_kept[num_large] = i
            num_large += 1
        elif winner[i] == i:
            d = int((center[i, 0] - low[0]) / edge[0])
            h = int((center[i, 1] - low[1]) / edge[1])
            w = int((center[i, 2] - low[2]) / edge[2])
            following[i] = head[d, h, w]
            head[d, h, w] = i
    return winner


@compiled("(float32[:, ::1], float32[::1], float32[::1], float64, float64, int64)")
def cover(
    boxes: NDArray[Any],
    volumes: NDArray[Any],
    scores: NDArray[Any],
    min_covered: float,
    min_score_ratio: float,
    num_covers: int,
) -> NDArray[np.int64]:
    """Find the cover of each of (N, 6) boxes: (N,), its index, or the box's own if there is none. See `covered_by`."""
    count = boxes.shape[0]
    owner = np.arange(count)
    covers = np.empty(count, np.int64)
    found = 0
    for i in range(count):
        if num_covers < 0 or i >= num_covers:
            for k in range(found):
                j = covers[k]
                if not scores[j] >= min_score_ratio * scores[i]:
                    continue
                shared = boxes.dtype.type(1)
                for axis in range(3):
                    edge = min(boxes[i, axis + 3], boxes[j, axis + 3]) - max(boxes[i, axis], boxes[j, axis])
                    if not edge > 0:
                        shared = boxes.dtype.type(0)
                        break
                    shared *= edge
                if shared > 0 and shared >= min_covered * volumes[i]:
                    owner[i] = j
                    break
        if owner[i] == i and (num_covers < 0 or i < num_covers):
            covers[found] = i
            found += 1
    return owner
