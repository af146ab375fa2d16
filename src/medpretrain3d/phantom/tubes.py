"""Painting tubes: many balls along curves, each only into the voxels around it."""

from __future__ import annotations

import numpy as np

from medpretrain3d.phantom.space import Space

OUTSIDE_MM = np.float32(-100.0)
"""Depth of voxels that no tube comes near."""


def tube_depth(space: Space, points_mm: np.ndarray, radii_mm: np.ndarray) -> np.ndarray:
    """Return depth below the surface of the union of balls: (D, H, W) float32 in mm, negative outside.

    Exact up to one voxel outside the surface; `OUTSIDE_MM` further away.

    Args:
        space: where to paint.
        points_mm: (N, 3) centres (z, y, x), dense along each curve (see `along`).
        radii_mm: (N,).
    """
    depth = np.full(space.shape, OUTSIDE_MM, dtype=np.float32)
    spacing = np.array(space.spacing_mm)
    centers = space.nearest_voxel(points_mm)
    reach = np.ceil((radii_mm + space.voxel_mm) / spacing.min()).astype(np.int64)
    for size in np.unique(reach):  # balls of one size share one kernel of voxel offsets
        half = np.ceil(size * spacing.min() / spacing).astype(np.int64)
        offsets = np.stack(np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij"), axis=-1).reshape(-1, 3)
        chosen = np.flatnonzero(reach == size)
        block = max(200_000 // len(offsets), 1)  # bounds the temporaries at a few MB
        for part in np.array_split(chosen, -(-len(chosen) // block)):
            voxels = centers[part][:, None] + offsets  # (n, K, 3)
            within = ((voxels >= 0) & (voxels < np.array(space.shape))).all(axis=-1)
            shift = space.voxel_center_mm(centers[part]) - points_mm[part]
            squared = sum((shift[:, None, axis] + offsets[:, axis] * spacing[axis]) ** 2 for axis in range(3))
            ball_depth = (radii_mm[part][:, None] - np.sqrt(squared)).astype(np.float32)
            within &= ball_depth > -space.voxel_mm
            flat = np.ravel_multi_index(tuple(voxels[within].T), space.shape)
            np.maximum.at(depth.reshape(-1), flat, ball_depth[within])
    return depth


def coverage(space: Space, depth_mm: np.ndarray) -> np.ndarray:
    """Return share of each voxel below a surface, from the depth of its centre: 0 to 1, float32 (partial volume)."""
    return np.clip(depth_mm / np.float32(space.voxel_mm) + np.float32(0.5), 0, 1).astype(np.float32)


def along(corners_mm: np.ndarray, radii_mm: np.ndarray | float, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) and radii (N,) every `step_mm` along a polyline (M, 3), radii interpolated between its corners."""
    corners = np.asarray(corners_mm, dtype=np.float64)
    radii = np.broadcast_to(np.asarray(radii_mm, dtype=np.float64), len(corners))
    lengths = np.concatenate([[0.0], np.cumsum(np.sqrt((np.diff(corners, axis=0) ** 2).sum(axis=1)))])
    places = np.linspace(0, lengths[-1], max(int(np.ceil(lengths[-1] / step_mm)) + 1, 2))
    points = np.stack([np.interp(places, lengths, corners[:, axis]) for axis in range(3)], axis=1)
    return points, np.interp(places, lengths, radii)
