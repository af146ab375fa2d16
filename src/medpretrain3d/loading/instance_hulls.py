"""Hulls and voxels of many objects in one map."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUM_IDS = 2**16
"""A map has ids of 16 bits."""


def instance_hulls(instances: Tensor, ids: Tensor) -> Tensor:
    """Return half-open hull (N, 6) int64 of each id of a map (D, H, W); an empty box where it is not in the map.

    The map is read once, however many objects there are, and no device is waited for.

    Args:
        instances: (D, H, W) int64, 0 and ids below 65,536.
        ids: (N,) int64, each once.
    """
    if instances.device.type == "cpu":
        return _hulls_compiled(instances, ids)
    return hulls_on_device(instances, ids)


def hulls_on_device(instances: Tensor, ids: Tensor) -> Tensor:
    """Return `instance_hulls` by one scatter along each axis, for any device."""
    order = torch.arange(len(ids), device=ids.device)
    row_of = ids.new_full((NUM_IDS,), len(ids)).scatter_(0, ids, order)  # those that nobody asked for share the last
    rows = row_of[instances]
    ends = []
    for axis, size in enumerate(instances.shape):
        along = torch.arange(size, device=ids.device).view([size if other == axis else 1 for other in range(3)])
        is_here = torch.zeros((len(ids) + 1) * size, dtype=torch.uint8, device=ids.device)
        is_here = is_here.scatter_(0, (rows * size + along).flatten(), 1).view(-1, size)[:-1]
        first, last = is_here.argmax(dim=1), size - is_here.flip(1).argmax(dim=1)
        ends.append(torch.stack([first, last]) * is_here.amax(dim=1))
    return torch.stack(ends, dim=1).permute(2, 0, 1).flatten(1)


def _hulls_compiled(instances: Tensor, ids: Tensor) -> Tensor:
    row_of = np.full(NUM_IDS, -1, np.int64)
    row_of[ids.numpy()] = np.arange(len(ids))
    hulls = np.zeros((len(ids), 6), np.int64)
    _find_hulls()(np.ascontiguousarray(instances.numpy()), row_of, hulls)
    return torch.from_numpy(hulls)


@functools.cache
def _find_hulls() -> Any:
    from medpretrain3d.loading.spatial_kernels import find_hulls  # numba takes half a second to import

    return find_hulls
