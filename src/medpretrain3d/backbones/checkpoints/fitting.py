"""Tensors of one size made to serve a network of another, where there is a way that keeps what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.tokens import resize_positions
from medpretrain3d.configurable import to_config

POSITION_TABLE = "pos_embed"
PATCH_KERNELS = ("patch_embed.proj.weight", "down_projection.proj.weight")
BY_PSEUDO_INVERSE = "by FlexiViT's pseudo-inverse: tokens of an image that is stretched alike stay the same"
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""What a batch norm holds and an instance norm does not."""


def fit(encoder: EncoderFile, receiver: Backbone) -> tuple[dict[str, Tensor], list[str]]:
    """Return the file's tensors in the receiver's shapes where that is possible, and what was done, in words.

    What cannot be fitted is returned as it is; comparing shapes is the caller's affair.
    """
    wanted = receiver.state_dict()
    theirs, ours = encoder.architecture["init_args"], to_config(receiver)["init_args"]
    fitted, changed = dict(encoder.weights), dict[str, int]()
    dropped = [name for name in fitted if name.endswith(STATISTICS) and name not in wanted and _layer(name) in wanted]
    for name in dropped:
        del fitted[name]
    for name in wanted.keys() & fitted.keys():
        tensor, shape = fitted[name], tuple(wanted[name].shape)
        if tuple(tensor.shape) == shape:
            continue
        if name.rpartition(".")[2] == POSITION_TABLE and tensor.ndim == 3:
            offset = theirs.get("interpolate_offset") or (0.0, 0.0, 0.0)
            grids = theirs.get("position_grid"), ours.get("position_grid")
            fitted[name] = fit_positions(tensor, shape, *grids, offset)
            how = "positions resized trilinearly"
        elif name.endswith(PATCH_KERNELS) and tensor.ndim == len(shape) == 5:
            fitted[name] = fit_patch(fit_channels(tensor, shape[1]), shape[2:])
            how = _how(tuple(tensor.shape), shape).replace("kernel", "patch").replace("by the mean", BY_PSEUDO_INVERSE)
        elif tensor.ndim == len(shape) == 5:
            fitted[name] = fit_kernel(fit_channels(tensor, shape[1]), shape[2:])
            how = _how(tuple(tensor.shape), shape)
        else:
            continue
        if tuple(fitted[name].shape) == shape:
            changed[how] = changed.get(how, 0) + 1
    notes = [f"{how} in {count} tensor{'s' if count > 1 else ''}" for how, count in sorted(changed.items())]
    if dropped:
        notes.append(
            f"warning: batch norm replaced: its statistics ({len(dropped)} tensors) are left out, scale and shift "
            "taken; features differ from those of the file until fine-tuned"
        )
    return fitted, notes


def _layer(statistic: str) -> str:
    return f"{statistic.rpartition('.')[0]}.weight"


def fit_channels(weight: Tensor, in_channels: int) -> Tensor:
    """A convolution weight (out, in, kd, kh, kw) for another number of image channels; as it is where none follows.

    An image whose channels are all alike gives the features that one channel gave before: weights are repeated and
    divided, or, for one channel instead of several, added.
    """
    before = weight.shape[1]
    if in_channels % before == 0:
        times = in_channels // before
        return weight.repeat(1, times, 1, 1, 1) / times
    return weight.sum(dim=1, keepdim=True) if in_channels == 1 else weight


def fit_kernel(weight: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """A convolution weight (out, in, kd, kh, kw) with the mean over each axis along which the kernel shall be 1."""
    for axis, (before, after) in enumerate(zip(weight.shape[2:], kernel, strict=True), start=2):
        if after == 1 and before > 1:
            weight = weight.mean(dim=axis, keepdim=True)
    return weight


def fit_patch(weight: Tensor, patch: tuple[int, ...]) -> Tensor:
    """A patch embedding (out, in, pd, ph, pw) for patches of another size (FlexiViT: Beyer et al., 2023, eq. 3).

    The pseudo-inverse of trilinear interpolation, one axis after the other, of which it is the product: a patch that is
    interpolated to a larger size has the token that it had before.
    """
    resized = weight.double()
    for axis, (before, after) in enumerate(zip(weight.shape[2:], patch, strict=True), start=2):
        if before != after:
            basis = torch.eye(before, dtype=torch.float64)[:, None]  # each voxel of an edge by itself
            interpolation = F.interpolate(basis, size=after, mode="linear", align_corners=False)[
                :, 0
            ].T  # (after, before)
            resized = (resized.movedim(axis, -1) @ torch.linalg.pinv(interpolation)).movedim(-1, axis)
    return resized.to(weight.dtype).contiguous()


def fit_positions(
    table: Tensor,
    shape: tuple[int, ...],
    grid: tuple[int, ...] | None,
    new_grid: tuple[int, ...] | None,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Return a position table (1, R + N, C), R rows for tokens without a place first, for another grid of N' tokens.

    Args:
        table: of the file.
        shape: of the network's table.
        grid: of the file's.
        new_grid: of the network's.
        offset: of `resize_positions`.
    """
    if grid is None or new_grid is None:
        return table
    num_places, num_new = prod(grid), prod(new_grid)
    placeless = table.shape[1] - num_places
    if placeless < 0 or (1, placeless + num_new, table.shape[2]) != shape:
        return table
    (d, h, w), (new_d, new_h, new_w) = grid, new_grid
    places = table[:, placeless:].float()
    resized = resize_positions(places, (d, h, w), (new_d, new_h, new_w), offset).to(table.dtype)
    return torch.cat([table[:, :placeless], resized], dim=1)


def _how(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    message = []
    if before[1] != after[1]:
        message.append(f"input channels {before[1]} to {after[1]}")
    if before[2:] != after[2:]:
        message.append(f"kernel {'x'.join(map(str, before[2:]))} to {'x'.join(map(str, after[2:]))} by the mean")
    return ", ".join(message)
