"""Tensors of one size made to serve a network of another, where there is a way that keeps what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.topology import Topology, adapt
from medpretrain3d.backbones.tokens import resize_positions
from medpretrain3d.configurable import to_config

POSITION_TABLE = "pos_embed"
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""What a batch norm holds and an instance norm does not."""


@dataclass(frozen=True)
class Fitted:
    """Tensors of a file in the shapes of a network, and what was done to them."""

    weights: dict[str, Tensor]
    notes: list[str]
    adapted: list[str]
    """Of each tensor with another kernel or patch its name and how it was adapted."""


def fit(encoder: EncoderFile, receiver: Backbone, topology: Topology = "same") -> Fitted:
    """Return the file's tensors in the receiver's shapes where that is possible, and what was done, in words.

    What cannot be fitted is returned as it is; comparing shapes is the caller's affair.

    Args:
        encoder: what was read.
        receiver: of the weights.
        topology: whether kernels and patches are adapted.
    """
    wanted = receiver.state_dict()
    theirs, ours = encoder.architecture["init_args"], to_config(receiver)["init_args"]
    fitted, changed, adapted = dict(encoder.weights), dict[str, int](), list[str]()
    dropped = [name for name in fitted if name.endswith(STATISTICS) and name not in wanted and _layer(name) in wanted]
    for name in dropped:
        del fitted[name]
    for name in [name for name in wanted if name in fitted]:
        tensor, shape = fitted[name], tuple(wanted[name].shape)
        grids = theirs.get("position_grid"), ours.get("position_grid")
        is_table = name.rpartition(".")[2] == POSITION_TABLE and tensor.ndim == 3
        # As many tokens on another grid lie elsewhere.
        if tuple(tensor.shape) == shape and not (is_table and _differ(*grids)):
            continue
        if is_table:
            offset = theirs.get("interpolate_offset") or (0.0, 0.0, 0.0)
            fitted[name], how = fit_positions(tensor, shape, *grids, offset), "positions resized trilinearly"
        elif tensor.ndim == len(shape) == 5:
            if topology == "adapt" and tuple(tensor.shape[2:]) != shape[2:]:
                tensor, what = adapt(name, tensor, shape[2:])
                adapted += [f"{name}: {what}"] if what else []
            fitted[name] = fit_channels(tensor, shape[1])
            how = f"input channels {tensor.shape[1]} to {shape[1]}" if tensor.shape[1] != shape[1] else ""
        else:
            continue
        if how and tuple(fitted[name].shape) == shape:
            changed[how] = changed.get(how, 0) + 1
    notes = [f"{how} in {count} tensor{'s' if count > 1 else ''}" for how, count in sorted(changed.items())]
    if dropped:
        notes.append(
            f"warning: batch norm replaced: its statistics ({len(dropped)} tensors) are left out, scale and shift "
            "taken; features differ from those of the file until fine-tuned"
        )
    return Fitted(fitted, notes, adapted)


def _differ(grid: Sequence[int] | None, new_grid: Sequence[int] | None) -> bool:
    return grid is not None and new_grid is not None and list(grid) != list(new_grid)


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
