"""Closed polygons as pixels: those whose centers lie inside or on the line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ON_LINE_VOX = 0.01
"""A pixel's center this close to a polygon's line lies on it: contours are written with a few decimals, and programs
that trace masks let them run through the centers of the outermost pixels."""


def fill_polygons(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels of closed polygons in one plane: where an odd number of them is, and on every line.

    A polygon inside another one is a hole, one inside that an island; one that touches itself along a channel, as a
    keyhole, encloses what its winding does. A pixel belongs to the mask if its center does.

    Args:
        polygons: (P, 2) vertices of each in pixels, whose centers are whole numbers; the last leads back to the first.
        shape: of the mask; whatever lies outside is cut off.

    Returns:
        (rows, columns) bool, in the order of the vertices' two coordinates.
    """
    starts = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
    edges = np.concatenate(
        [np.stack([one, np.roll(one, -1, axis=0)], axis=1) for one in starts] or [np.zeros((0, 2, 2))]
    )  # (E, 2 ends, 2)
    result: np.ndarray = _inside(edges, shape) | _on_lines(edges, shape)
    return result


def _inside(edges: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Even-odd rule along each row: a pixel is inside where an odd number of edges was crossed before it."""
    ends = edges[np.arange(len(edges))[:, None], edges[:, :, 0].argsort(axis=1)]  # lower row first
    low, high = ends[:, 0], ends[:, 1]
    # An edge crosses the rows from its lower end on, its upper end excluded, so that two that meet count once.
    first = np.ceil(low[:, 0]).clip(0, shape[0]).astype(int)
    last = np.ceil(high[:, 0]).clip(0, shape[0]).astype(int)
    edge, row = _ranges(first, last)
    share = (row - low[edge, 0]) / (high[edge, 0] - low[edge, 0])
    column = low[edge, 1] + share * (high[edge, 1] - low[edge, 1])
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    np.add.at(crossings, (row, np.ceil(column).clip(0, shape[1]).astype(int)), 1)
    result: np.ndarray = crossings.cumsum(axis=1)[:, :-1] % 2 == 1
    return result


def _on_lines(edges: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose center lies on an edge."""
    found = np.zeros(shape, dtype=bool)
    for axis in (0, 1):  # along rows, then along columns: of a flat edge only the latter meets every pixel
        size = shape[axis]
        low, high = edges[:, :, axis].min(axis=1), edges[:, :, axis].max(axis=1)
        first = np.ceil(low - ON_LINE_VOX).clip(0, size).astype(int)
        last = (np.floor(high + ON_LINE_VOX) + 1).clip(0, size).astype(int)
        edge, along = _ranges(first, last)
        begin, end = edges[edge, 0], edges[edge, 1]
        length = end[:, axis] - begin[:, axis]
        is_flat = np.abs(length) < ON_LINE_VOX
        share = ((along - begin[:, axis]) / np.where(is_flat, 1, length)).clip(0, 1)
        for one in (np.where(is_flat, 0, share), np.where(is_flat, 1, share)):
            across = begin[:, 1 - axis] + one * (end[:, 1 - axis] - begin[:, 1 - axis])
            pixel = np.rint(across)
            is_hit = (np.abs(across - pixel) <= ON_LINE_VOX) & (pixel >= 0) & (pixel < shape[1 - axis])
            places = (along[is_hit], pixel[is_hit].astype(int))
            found[places if axis == 0 else places[::-1]] = True
    return found


def _ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every whole number from `first` to below `last` of each edge, and the number of that edge."""
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(first)), counts)
    offset = np.arange(len(edge)) - np.repeat(counts.cumsum() - counts, counts)
    return edge, first[edge] + offset
