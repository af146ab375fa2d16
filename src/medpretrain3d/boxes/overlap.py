"""Overlap of boxes: IoU and generalized IoU of every box with every other, or of pairs.

Large matrices on the CPU come from a fused loop (`kernels`), everything else from plain torch; both carry out the same
operations in the same order and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.boxes.arithmetic import at_least_float32, box_volume

MIN_FUSED_PAIRS = 4096
"""Below this many pairs torch takes under 0.1 ms, and numba need not be imported (half a second, once)."""


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of every box of `a` (N, 6) with every box of `b` (M, 6): (N, M).

    float32, or float64 where both are: world boxes lie far from their origin, and at 1500 mm the last digit of float32
    is 1e-4 mm. Boxes without volume or with NaN have IoU 0 with everything.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    if not _is_worth_fusing(a, b):
        return _ratio(*_intersection_and_union(a, b))
    from medpretrain3d.boxes.kernels import iou_matrix

    return _filled_by(iou_matrix, a, b)


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return generalized IoU in [-1, 1] of every pair: (N, M), precision as in `box_iou` (Rezatofighi et al., 2019).

    Of (..., N, 6) and (..., M, 6), whose first axes broadcast, (..., N, M).
    """
    a, b = at_least_float32(a), at_least_float32(b)
    if not _is_worth_fusing(a, b):
        return _giou(a, b)
    if a.dim() > 2 or b.dim() > 2:
        first = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        matrices = zip(*[boxes.expand(*first, -1, -1).flatten(0, -3) for boxes in (a, b)], strict=True)
        return torch.stack([generalized_box_iou(*pair) for pair in matrices]).view(*first, a.shape[-2], b.shape[-2])
    from medpretrain3d.boxes.kernels import giou_matrix

    return _filled_by(giou_matrix, a, b)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return IoU of boxes that pair by position, with broadcasting: (..., 6), (..., 6) -> (...)."""
    a, b = at_least_float32(a), at_least_float32(b)
    intersection = volume_a = volume_b = a.new_ones(())
    for axis in range(3):
        low = torch.maximum(a[..., axis], b[..., axis])
        high = torch.minimum(a[..., axis + 3], b[..., axis + 3])
        intersection = intersection * (high - low).clamp(min=0)
        volume_a = volume_a * (a[..., axis + 3] - a[..., axis]).clamp(min=0)
        volume_b = volume_b * (b[..., axis + 3] - b[..., axis]).clamp(min=0)
    return _ratio(intersection, volume_a + volume_b - intersection)


def _is_worth_fusing(a: Tensor, b: Tensor) -> bool:
    alike = a.device.type == b.device.type == "cpu" and a.dtype == b.dtype
    return alike and a.shape[-2] * b.shape[-2] >= MIN_FUSED_PAIRS and not (a.requires_grad or b.requires_grad)


def _filled_by(kernel: Callable[..., None], a: Tensor, b: Tensor) -> Tensor:
    matrix = a.detach().contiguous().numpy(), b.detach().t().contiguous().numpy()  # a row per coordinate: vector loads
    # numpy asks for huge pages, torch and numba do not: 4 against 16 ms for 10,000 x 1,000 boxes.
    out = np.empty((len(a), len(b)), matrix[0].dtype)
    kernel(*matrix, box_volume(a).numpy(), box_volume(b).numpy(), out)
    return torch.from_numpy(out)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    intersection, union = _intersection_and_union(a, b)
    hull = torch.ones_like(union)
    for axis in range(3):
        hull *= torch.maximum(a[..., :, None, axis + 3], b[..., None, :, axis + 3]) - torch.minimum(
            a[..., :, None, axis], b[..., None, :, axis]
        )
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _ratio(intersection: Tensor, union: Tensor) -> Tensor:
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), union.new_zeros(()))


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # One axis at a time: the (N, M, 3) temporaries of the one-line version are what costs on large inputs.
    first = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    intersection = a.new_ones(*first, a.shape[-2], b.shape[-2])
    for axis in range(3):
        low = torch.maximum(a[..., :, None, axis], b[..., None, :, axis])
        high = torch.minimum(a[..., :, None, axis + 3], b[..., None, :, axis + 3])
        intersection *= (high - low).clamp_(min=0)
    union = box_volume(a)[..., :, None] + box_volume(b)[..., None, :] - intersection
    return intersection, union
