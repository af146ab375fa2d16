"""The tile grid: the fewest patches that cover a volume with the overlap asked for."""

from __future__ import annotations

import itertools
import math

from medpretrain3d.errors import UserError

Triple = tuple[int, int, int]


def axis_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Return first voxels of the tiles along one axis, rising.

    With `n` tiles the step is at most `patch - ceil(overlap * patch)`, which fixes the smallest possible `n`; the tiles
    are then spread evenly, so the true overlap is often larger than the one asked for and never smaller.

    Args:
        size: voxels of the volume along the axis.
        patch: voxels of a tile along the axis.
        overlap: least fraction of a tile that it shares with its neighbour, in [0, 1).
    """
    if size <= patch:
        return [0]
    shared = math.ceil(overlap * patch - 1e-9)  # 0.7 * 10 may come out a hair above 7
    step = max(1, patch - shared)
    steps = math.ceil((size - patch) / step)
    # Rounding down keeps every distance at ceil((size - patch) / steps) or less, hence within the integer `step`.
    return [index * (size - patch) // steps for index in range(steps + 1)]


def tile_starts(shape: Triple, patch: Triple, overlap: float = 0.5) -> list[Triple]:
    """Min corners (d, h, w) of the tiles that cover a volume, last axis fastest.

    A volume smaller than the patch along an axis gets one tile there, starting at 0; the missing voxels are padded
    *after* the content, so coordinates in such a tile are coordinates in the volume.

    Args:
        shape: voxels of the volume (D, H, W).
        patch: voxels of a tile (D, H, W).
        overlap: least fraction of a tile that it shares with its neighbour along each axis, in [0, 1).

    Raises:
        UserError: an overlap outside [0, 1), or a shape or patch with an axis below 1.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"overlap {overlap}: must be at least 0 and below 1; 0.5 is usual")
    if min(*shape, *patch) < 1:
        raise UserError(f"volume {tuple(shape)} in tiles of {tuple(patch)}: every axis must have at least 1 voxel")
    depth, height, width = (axis_starts(size, tile, overlap) for size, tile in zip(shape, patch, strict=True))
    return list(itertools.product(depth, height, width))


def starts_within(
    shape: Triple, patch: Triple, overlap: float, within: tuple[Triple, Triple] | None = None
) -> list[Triple]:
    """Min corners of the tiles that cover a part of a volume; where that is less than a tile, what lies about it too.

    Args:
        shape: voxels of the volume (D, H, W).
        patch: as for `tile_starts`.
        overlap: as for `tile_starts`.
        within: the first voxel of the part and the one behind its last along each axis; None is the volume.

    Raises:
        UserError: see `tile_starts`.
    """
    if within is None:
        return tile_starts(shape, patch, overlap)
    low, sizes = [], []
    for first, end, size, tile in zip(*within, shape, patch, strict=True):
        wanted = min(max(end - first, tile), size)
        low.append(min(max((first + end - wanted) // 2, 0), size - wanted))
        sizes.append(wanted)
    starts = tile_starts((sizes[0], sizes[1], sizes[2]), patch, overlap)
    return [(low[0] + d, low[1] + h, low[2] + w) for d, h, w in starts]
