"""Peaks of a heat map: cells that are the largest within a ball in mm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.detection.box_grid import Shape


def peaks(heat: Tensor, radius_mm: float, cell_mm: Sequence[float]) -> Tensor:
    """Find the cells (B, K, d, h, w) bool that no cell within a radius of them, nor one that touches them, exceeds.

    Of equal ones that are nearer to each other, as on a plateau, all are peaks: `suppress_by_distance` takes one.

    Args:
        heat: (B, K, d, h, w), without NaN.
        radius_mm: of the ball.
        cell_mm: extents of a cell.
    """
    return heat >= ball_maximum(heat, radius_mm, cell_mm)


def ball_maximum(heat: Tensor, radius_mm: float, cell_mm: Sequence[float]) -> Tensor:
    """Filter maps (B, K, d, h, w) with the maximum over a ball, of at least the 26 touching cells.

    A ball is rows along W: one pooling for each length of a row, one shift for each row.
    """
    d, h, w = heat.shape[2:]
    rows = ball_rows(radius_mm, cell_mm, (d, h, w))
    deep, high = (max(row[axis] for row in rows) for axis in (0, 1))
    found = heat
    for length in sorted(set(rows.values())):
        pooled = F.max_pool3d(heat, (1, 1, 2 * length + 1), stride=1, padding=(0, 0, length)) if length else heat
        padded = F.pad(pooled, (0, 0, high, high, deep, deep), value=-torch.inf)
        for (i, j), of_row in rows.items():
            if of_row == length:
                found = torch.maximum(found, padded[:, :, deep + i : deep + i + d, high + j : high + j + h])
    return found


def ball_rows(radius_mm: float, cell_mm: Sequence[float], shape: Shape) -> dict[tuple[int, int], int]:
    """Return the cells of a ball as rows: for each offset (i, j) along D and H, how far the ball goes along W.

    The touching cells are always among them, and nothing reaches over the whole map of `shape`.
    """
    deep, high, wide = (
        max(1, min(int(radius_mm / edge), count - 1)) for edge, count in zip(cell_mm, shape, strict=True)
    )
    rows: dict[tuple[int, int], int] = {}
    for i, j in itertools.product(range(-deep, deep + 1), range(-high, high + 1)):
        rest = radius_mm**2 - (i * cell_mm[0]) ** 2 - (j * cell_mm[1]) ** 2
        length = min(int(rest**0.5 / cell_mm[2]), wide) if rest >= 0 else -1
        if max(abs(i), abs(j)) <= 1:
            length = max(length, 1)
        if length >= 0:
            rows[i, j] = length
    return rows
