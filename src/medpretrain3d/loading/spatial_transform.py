"""One spatial transform of a crop: linear map, mirroring and elastic displacement, read through once.

Voxels on the CPU go through a compiled loop that needs neither a sampling grid nor a float copy of the source and is
twice as fast as `grid_sample`. On other devices `grid_sample` does the same, to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medpretrain3d.boxes import box_center, box_size

Patch = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class SpatialTransform:
    """Spatial transform of a patch: patch offset `o` from its center is read at `matrix @ (o + u(o))`.

    Mirroring comes last. `u` is the elastic displacement, linear between the nodes of a lattice over the patch.
    """

    matrix: np.ndarray
    """(3, 3) float64 along (D, H, W); the identity reads the crop as it stands."""
    flips: tuple[int, ...] = ()
    """Axes mirrored afterwards (0 = D, 1 = H, 2 = W)."""
    elastic: np.ndarray | None = None
    """(3, G, G, G) float64 displacement along (D, H, W) of each lattice node, as a share of the nodes' distance."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be interpolated."""
        return self.elastic is None and bool(np.array_equal(self.matrix, np.eye(3)))

    @property
    def is_aligned(self) -> bool:
        """Whether axes stay axes, so that boxes are carried exactly."""
        return self.elastic is None and not np.any(self.matrix - np.diag(np.diag(self.matrix)))

    def source_size(self, patch: Patch) -> Patch:
        """Size (D, H, W) of the crop to read so that every voxel of the patch lies between voxels of the source."""
        if self.is_plain:
            return patch
        reach = (np.array(patch) - 1) / 2
        if self.elastic is not None:
            reach = reach + np.abs(self.displacement(patch)).max(axis=(1, 2, 3))
        needed = np.ceil(2 * (np.abs(self.matrix) @ reach) + 1 - 1e-6).astype(int)
        # Same parity as the patch, so that both have their centre on a voxel or both between two.
        d, h, w = (int(size + (size - edge) % 2) for size, edge in zip(needed, patch, strict=True))
        return (d, h, w)

    def source(self, start: Patch, patch: Patch) -> tuple[Patch, Patch]:
        """Return lowest voxel and size of the crop to read for a patch that stands at `start`."""
        size = self.source_size(patch)
        d, h, w = (s - (edge - p) // 2 for s, edge, p in zip(start, size, patch, strict=True))
        return (d, h, w), size

    def affine(self, start: Patch, patch: Patch) -> np.ndarray:
        """(3, 4) float64 from places in the patch to places in the volume, both in voxels from the lowest corner.

        Voxel `i` has its centre at `i + 0.5`. Elastic displacement is not part of it.
        """
        half = np.array(patch) / 2
        matrix = self.mirrored_matrix()
        return np.concatenate([matrix, (np.array(start) + half - matrix @ half)[:, None]], axis=1)

    def mirrored_matrix(self) -> np.ndarray:
        """Return (3, 3): `matrix` with the mirroring in it."""
        return self.matrix @ np.diag(_signs(self.flips))

    def displacement(self, patch: Patch) -> np.ndarray:
        """Return (3, G, G, G) in voxels of the mirrored patch; G is 0 where nothing is displaced."""
        if self.elastic is None:
            return np.zeros((3, 0, 0, 0))
        nodes = self.elastic.shape[1]
        distance_vox = (np.array(patch) - 1) / (nodes - 1) * _signs(self.flips)
        result: np.ndarray = (
            np.flip(self.elastic, tuple(axis + 1 for axis in self.flips)) * distance_vox[:, None, None, None]
        )
        return result


IDENTITY = SpatialTransform(np.eye(3))
"""Reads a crop as it stands."""


def apply_transform(source: Tensor, spatial_transform: SpatialTransform, patch: Patch, nearest: bool = False) -> Tensor:
    """Carry a crop (C, d, h, w), read with `spatial_transform.source_size(patch)`, to the patch (C, D, H, W).

    Args:
        source: the voxels read; their centre is the patch's centre.
        spatial_transform: what was drawn.
        patch: size of the result in voxels.
        nearest: for labels, which keep their type; images are interpolated linearly and become float32, unless
            nothing has to be interpolated.
    """
    if spatial_transform.is_plain:
        return source.flip([axis + 1 for axis in spatial_transform.flips]) if spatial_transform.flips else source
    if source.device.type == "cpu":
        return _place_compiled(source, spatial_transform, patch, nearest)
    return place_on_device(source, spatial_transform, patch, nearest)


def place_on_device(source: Tensor, spatial_transform: SpatialTransform, patch: Patch, nearest: bool = False) -> Tensor:
    """Return `apply_transform` by `grid_sample`, for any device."""
    # grid_sample wants (w, h, d) in [-1, 1] with -1 and 1 at the outer faces of the crop; build it from offsets along
    # (d, h, w), so that the reversal happens in one place.
    scale = 2.0 / np.array(source.shape[1:])
    matrix = np.diag(scale) @ spatial_transform.mirrored_matrix()
    theta = (matrix @ np.diag(np.array(patch) / 2.0))[::-1, ::-1]
    theta = np.concatenate([theta, np.zeros((3, 1))], axis=1)
    affine = torch.from_numpy(theta).to(source.device, torch.float32, non_blocking=True)
    grid = F.affine_grid(affine[None], [1, 1, *patch], align_corners=False)
    if spatial_transform.elastic is not None:
        lattice = np.tensordot(matrix, spatial_transform.displacement(patch), axes=1)[::-1]
        nodes = torch.from_numpy(lattice.copy()).to(source.device, torch.float32, non_blocking=True)[None]
        grid += F.interpolate(nodes, patch, mode="trilinear", align_corners=True).permute(0, 2, 3, 4, 1)
    mode = "nearest" if nearest else "bilinear"
    placed = F.grid_sample(source.float()[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]
    return placed.to(source.dtype) if nearest else placed


def place_boxes(boxes: np.ndarray, spatial_transform: SpatialTransform, patch: Patch, source_size: Patch) -> np.ndarray:
    """Carry boxes (N, 6), in voxels of the source crop, to the patch.

    Exact for flips and zooms. Otherwise a box becomes the hull of the ellipsoid inscribed in it, which is far tighter
    than the hull of the eight corners: that one grows a round lesion by up to 73 %.
    """
    center = box_center(boxes) - np.array(source_size) / 2
    half = box_size(boxes) / 2  # 0 of points, which stay points
    to_patch = np.linalg.inv(spatial_transform.mirrored_matrix())
    if spatial_transform.elastic is None:
        center = center @ to_patch.T
        half = np.sqrt(np.square(half) @ np.square(to_patch).T)
        low, high = center - half, center + half
    else:
        surface = (center[:, None] + half[:, None] * _SPHERE) @ to_patch.T  # (N, points, 3)
        moved = _undo_displacement(surface, spatial_transform.displacement(patch), patch)
        low, high = moved.min(axis=1), moved.max(axis=1)
    return np.concatenate([low, high], axis=1) + np.tile(np.array(patch) / 2, 2)


def _undo_displacement(points: np.ndarray, displacement: np.ndarray, patch: Patch) -> np.ndarray:
    """Return offsets `o` with `o + u(o) = points`, by fixed-point iteration: `u` is a contraction by construction."""
    from scipy.ndimage import map_coordinates

    nodes = displacement.shape[1]
    offsets = points.copy()
    for _ in range(20):
        where = (offsets + np.array(patch) / 2 - 0.5) * (nodes - 1) / (np.array(patch) - 1)
        moved = [map_coordinates(along, where.reshape(-1, 3).T, order=1, mode="nearest") for along in displacement]
        offsets = points - np.stack(moved, axis=-1).reshape(points.shape)
    return offsets


def _signs(flips: tuple[int, ...]) -> np.ndarray:
    return np.array([-1.0 if axis in flips else 1.0 for axis in range(3)])


def _sphere(count: int) -> np.ndarray:
    """Return (count, 3) points spread evenly over the unit sphere along a spiral, poles of all axes included."""
    turn = np.arange(count) + 0.5
    height = 1 - 2 * turn / count
    angle = np.pi * (1 + np.sqrt(5)) * turn
    across = np.sqrt(1 - height**2)
    spiral = np.stack([height, across * np.cos(angle), across * np.sin(angle)], axis=1)
    return np.concatenate([spiral, np.eye(3), -np.eye(3)])


_SPHERE = _sphere(256)


def _place_compiled(source: Tensor, spatial_transform: SpatialTransform, patch: Patch, nearest: bool) -> Tensor:
    voxels = np.ascontiguousarray(source.numpy())
    placed = np.empty((len(voxels), *patch), voxels.dtype if nearest else np.float32)
    kernel = _kernels()[1 if nearest else 0]
    kernel(voxels, spatial_transform.mirrored_matrix(), spatial_transform.displacement(patch), placed)
    return torch.from_numpy(placed)


@functools.cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the loops of linear and of nearest interpolation, compiled when first wanted."""
    from medpretrain3d.loading.spatial_kernels import read_linear, read_nearest

    return read_linear, read_nearest
