"""Slices that a tilted gantry shifted against each other, moved back in their planes."""

from __future__ import annotations

import numpy as np

from medpretrain3d.store.readers.scan import MAX_SHIFT_VOX


def straightened(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a sheared stack on a grid of right angles: every slice stays in its plane and is moved within it.

    Between pixels is interpolated linearly. The grid grows so that nothing of any slice is lost, and what no slice
    covers gets the lowest value of the stack. A stack that is straight up to `MAX_SHIFT_VOX` stays as it is.

    Args:
        voxels: (1, i, j, k), stacked along k.
        affine: (4, 4) from voxel index to LPS mm.

    Returns:
        Voxels (1, i, j, k) of the same kind of number, and their affine.
    """
    from scipy.ndimage import shift

    in_plane, step = affine[:3, :2], affine[:3, 2]
    normal = np.cross(in_plane[:, 0], in_plane[:, 1])
    normal /= np.linalg.norm(normal)
    straight = normal * (step @ normal)
    per_slice = np.linalg.lstsq(in_plane, step - straight, rcond=None)[0]  # (2,) pixels
    num_slices = voxels.shape[3]
    moved = np.arange(num_slices)[:, None] * per_slice  # (k, 2)
    if np.abs(moved).max() <= MAX_SHIFT_VOX:
        return voxels, affine
    low = np.floor(moved.min(axis=0)).astype(int)
    extra = np.ceil(moved.max(axis=0)).astype(int) - low
    background = voxels.min()
    shape = (voxels.shape[1] + extra[0], voxels.shape[2] + extra[1], num_slices)
    result = np.full((1, *shape), background, dtype=voxels.dtype)
    for k in range(num_slices):
        padded = np.full(shape[:2], background, dtype=np.float64)
        padded[: voxels.shape[1], : voxels.shape[2]] = voxels[0, :, :, k]
        plane = shift(padded, moved[k] - low, order=1, mode="constant", cval=float(background))
        result[0, :, :, k] = plane if voxels.dtype.kind == "f" else np.rint(plane)
    corrected = affine.copy()
    corrected[:3, 2] = straight
    corrected[:3, 3] = affine[:3, 3] + in_plane @ low
    return result, corrected
