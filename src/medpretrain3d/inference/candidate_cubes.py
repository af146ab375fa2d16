"""Cubes of a scan about candidates, each of an edge in mm, resampled to one number of voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.inference.scan import ScanTiles


def candidate_cubes(tiles: ScanTiles, center_vox: np.ndarray, edges_mm: Sequence[float], edge_vox: int) -> Tensor:
    """Return cubes about one point, as the network sees a scan: (S, C, edge_vox, edge_vox, edge_vox) float32.

    The region of the largest is read once. Where voxels grow, as many whole ones are averaged as fit into one of the
    cube; then linear interpolation takes the values at the cube's own voxel centers. What lies outside of the scan is
    what surrounds a volume in training.

    Args:
        tiles: of the scan.
        center_vox: (3,) in voxels of the tiles, at voxel edges (a box's coordinates).
        edges_mm: of the cubes.
        edge_vox: voxels along each edge of a cube.
    """
    spacing_mm = np.array(tiles.spacing_mm)
    steps = [edge / edge_vox / spacing_mm for edge in edges_mm]  # (3,) each, in voxels of the scan
    shrinks = [np.maximum(np.floor(step + 1e-6), 1).astype(int) for step in steps]
    margin = np.max(shrinks, axis=0) + 1
    half = max(edges_mm) / 2 / spacing_mm
    low = np.floor(center_vox - half).astype(int) - margin
    high = np.ceil(center_vox + half).astype(int) + 2 * margin
    region = torch.from_numpy(np.ascontiguousarray(_region(tiles, low, high), dtype=np.float32))[None]
    places = np.arange(edge_vox) + 0.5 - edge_vox / 2  # of the cube's voxel centers about its own
    cubes = []
    for step, shrink in zip(steps, shrinks, strict=True):
        pooled = F.avg_pool3d(region, tuple(shrink.tolist())) if (shrink > 1).any() else region
        at = [
            2 * (center - first + places * one) / factor / size - 1  # -1 .. 1 from edge to edge
            for center, first, one, factor, size in zip(center_vox, low, step, shrink, pooled.shape[2:], strict=True)
        ]
        d, h, w = torch.meshgrid(*(torch.from_numpy(axis).float() for axis in at), indexing="ij")
        grid = torch.stack([w, h, d], dim=-1)[None]
        cubes.append(F.grid_sample(pooled, grid, padding_mode="border", align_corners=False)[0])
    return torch.stack(cubes)


def _region(tiles: ScanTiles, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return voxels from `low` to `high`, which may lie outside of the scan, as the network sees them: (C, d, h, w)."""
    first, last = np.clip(low, 0, tiles.shape), np.clip(high, 0, tiles.shape)
    region = np.empty((len(tiles.pad_values), *(high - low).tolist()), np.int16)
    region[:] = np.array(tiles.pad_values, region.dtype)[:, None, None, None]
    if (last > first).all():
        d, h, w = (slice(one - start, end - start) for one, end, start in zip(first, last, low, strict=True))
        region[:, d, h, w] = tiles.scan.read_image(first.tolist(), (last - first).tolist())
    return tiles.window(region)
