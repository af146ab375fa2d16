"""Kernels and patches for voxels of another shape than those that an encoder was pretrained on."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Topology = Literal["same", "adapt"]
"""Whether a network must have the kernels and patches of the file, or those of the file are adapted to its own."""
PATCH_KERNELS = ("patch_embed.proj.weight", "down_projection.proj.weight")
BY_SUM = "taps outside are added to the outermost kept"
BY_ZEROS = "zeros around its taps"
BY_PSEUDO_INVERSE = "by FlexiViT's pseudo-inverse: tokens of an image that is stretched alike stay the same"
BY_INTERPOLATION = "interpolated to the file's patch, where the pseudo-inverse would pass over voxels"


def adapt(name: str, weight: Tensor, size: tuple[int, ...]) -> tuple[Tensor, str]:
    """Return a convolution's weight for another kernel or patch, and in words what was done, empty where nothing is.

    What an image that is constant along an axis gives stays the same whatever happens along that axis.

    Args:
        name: of the tensor.
        weight: (out, in, kd, kh, kw).
        size: edges (D, H, W) that are wanted.
    """
    before = tuple(weight.shape[2:])
    sizes = f"{'x'.join(map(str, before))} to {'x'.join(map(str, size))}"
    if name.endswith(PATCH_KERNELS):
        changed = [(one, other) for one, other in zip(before, size, strict=True) if one != other]
        is_inverse = all(has_pseudo_inverse(one, other) for one, other in changed)
        return fit_patch(weight, size), f"patch {sizes} {BY_PSEUDO_INVERSE if is_inverse else BY_INTERPOLATION}"
    if not all(fits_kernel(one, other) for one, other in zip(before, size, strict=True)):
        return weight, ""
    rules = [BY_SUM] * any(map(int.__gt__, before, size)) + [BY_ZEROS] * any(map(int.__lt__, before, size))
    return fit_kernel(weight, size), f"kernel {sizes}, {', '.join(rules)}"


def fits_kernel(before: int, after: int) -> bool:
    """Return whether an edge of a kernel can become another: its center has to stay where it is."""
    return after == 1 or before % 2 == after % 2


def fit_kernel(weight: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """A convolution weight (out, in, kd, kh, kw) for a kernel of other edges, whose centers stay.

    Along a shorter axis taps are added to the nearest one that is kept: where voxels are so long that the axis gets
    short kernels, what these taps saw in pretraining lies within the outermost voxels that are left, so an image that
    is constant there gives what it gave. A mean or the center alone would give a part of it, which a norm with
    statistics of the file, or a bias, takes for another image. Along a longer axis zeros are put around: the same map.

    Args:
        weight: of the file.
        kernel: edges (D, H, W) for which `fits_kernel` holds.
    """
    for axis, (before, after) in enumerate(zip(weight.shape[2:], kernel, strict=True), start=2):
        if before == after:
            continue
        place = (torch.arange(before, device=weight.device) - (before - after) // 2).clamp(0, after - 1)
        if after > before:
            place = torch.arange(before, device=weight.device) + (after - before) // 2
        shape = [*weight.shape]
        shape[axis] = after
        weight = weight.new_zeros(shape).index_add_(axis, place, weight)
    return weight


def fit_patch(weight: Tensor, patch: tuple[int, ...]) -> Tensor:
    """A patch embedding (out, in, pd, ph, pw) for patches of another size (FlexiViT: Beyer et al., 2023, eq. 3).

    The pseudo-inverse of trilinear interpolation, one axis after the other, of which it is the product: a patch that is
    interpolated to a larger size has the token that it had before. Interpolation to less than half passes over voxels,
    and its pseudo-inverse over their weights (a patch of 8 positive weights that becomes 2 lost 0.64 of what a constant
    gives): there the smaller patch has the token of its interpolation to the file's size.
    """
    resized = weight.double()
    for axis, (before, after) in enumerate(zip(weight.shape[2:], patch, strict=True), start=2):
        if before != after:
            is_inverse = has_pseudo_inverse(before, after)
            matrix = _pseudo_inverse(before, after) if is_inverse else _interpolation(after, before)
            resized = (resized.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return resized.to(weight.dtype).contiguous()


def has_pseudo_inverse(before: int, after: int) -> bool:
    """Return whether a constant patch keeps its token under the pseudo-inverse from one edge to another."""
    sums = _pseudo_inverse(before, after).sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums))


def _pseudo_inverse(before: int, after: int) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(_interpolation(before, after))
    return inverse


def _interpolation(before: int, after: int) -> Tensor:
    """Return the matrix (after, before) of linear interpolation between centers."""
    basis = torch.eye(before, dtype=torch.float64)[:, None]  # each voxel of an edge by itself
    columns: Tensor = F.interpolate(basis, size=after, mode="linear", align_corners=False)[:, 0]
    return columns.T
