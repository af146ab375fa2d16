"""Primus, told from its tensors, and its weights brought into this package's order of axes and tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from medpretrain3d.backbones.checkpoints.frame import Turn
from medpretrain3d.backbones.primus import PRESETS, Primus, Size
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError

KERNEL, LAST = "down_projection.proj.weight", "down_projection.final_proj.weight"


def read_primus(
    where: str,
    weights: dict[str, Tensor],
    kwargs: Mapping[str, Any] | None,
    patches: Iterable[Sequence[int] | None],
    token_order: str,
) -> tuple[dict[str, Tensor], Config, list[str]]:
    """Return weights in our order of axes and tokens, the network's config, and notes.

    Args:
        where: names the file in errors.
        weights: `down_projection.*`, `eva.*` and, where there are any, `register_tokens`.
        kwargs: `arch_kwargs` of the plan, which may be absent.
        patches: sizes in voxels that the plan speaks of; the first that counts as many tokens as the table is believed.
        token_order: `whd` or `hwd`, as the network was trained to flatten its patches.

    Raises:
        UserError: another patch embedding, no way to know the heads or the grid, no rotary positions, or tokens in the
            order `hwd` on a grid whose first two axes differ.
    """
    own = dict(weights)
    architecture, notes = primus_architecture(where, own, kwargs, patches)
    if token_order == "whd":
        return own, architecture, [*notes, "tokens flattened (w h d): positions read as they are"]
    d, h, w = architecture["init_args"]["position_grid"]
    if d != h:
        raise UserError(
            f"{where}: its tokens lie on a grid of {d} x {h} x {w}, and flattened (h w d) its rotary positions were "
            "scrambled in training, so no network of this package has its features; pass token_order whd if it was "
            "trained with code that flattens (w h d)"
        )
    notes.append(
        "tokens flattened (h w d): positions transposed, and query and key channels exchanged to match; "
        "token_order whd reads them as they are"
    )
    return swap_first_axes(own, architecture), architecture, notes


def primus_architecture(
    where: str, weights: dict[str, Tensor], kwargs: Mapping[str, Any] | None, patches: Iterable[Sequence[int] | None]
) -> tuple[Config, list[str]]:
    """Describe the transformer whose tensors these are; a position table that it lacks is added to them as zeros."""
    plan, notes = dict(kwargs or {}), []
    linear, stages = weights.get(KERNEL), _stages(where, weights)
    if plan.get("use_rot_pos_emb") is False:
        raise UserError(f"{where}: a Primus without rotary positions, which is not known here")
    if linear is not None:
        width, in_channels, *edges = linear.shape
        patch_size = tuple(edges)
    else:
        width, patch_size = len(weights[LAST]), (2 ** len(stages),) * 3
        in_channels = weights["down_projection.stem.blocks.0.conv1.conv.weight"].shape[1]
    depth = len({match[1] for name in weights if (match := re.match(r"eva\.blocks\.(\d+)\.", name))})
    stated_depth = plan.get("encoder_eva_depth", plan.get("eva_depth", depth))
    if stated_depth != depth:
        notes.append(f"its plan speaks of {stated_depth} blocks, the file holds {depth}: those of the file are read")
    published = {(size.width, size.depth): (name, size.heads) for name, size in PRESETS.items()}
    preset, published_heads = published.get((width, depth), (None, None))
    heads = plan.get("encoder_eva_numheads", plan.get("eva_numheads", published_heads))
    if heads is None:
        raise UserError(
            f"{where}: a Primus of width {width} and depth {depth} whose plan states no number of heads, and no tensor "
            f"shows it; published are {', '.join(f'{name} {tuple(size)}' for name, size in PRESETS.items())}"
        )
    if heads != published_heads:
        preset = None
    registers = weights["register_tokens"].shape[1] if "register_tokens" in weights else 0
    grid = _grid(where, weights.get("eva.pos_embed"), registers, patch_size, patches)
    if "eva.pos_embed" not in weights:
        weights["eva.pos_embed"] = torch.zeros(1, registers + prod(grid), width)
        notes.append("no learned positions in the file: a table of zeros stands in, which changes nothing")
    has_scale, has_norm = "eva.blocks.0.gamma_1" in weights, "eva.blocks.0.attn.norm.weight" in weights
    for key, is_there, what in (
        ("init_values", has_scale, "layer scale"),
        ("scale_attn_inner", has_norm, "attention norm"),
    ):
        if key in plan and bool(plan[key]) != is_there:
            notes.append(f"its plan says {key}={plan[key]}, the file has {'a' if is_there else 'no'} {what}: so built")
    size = Size(width, depth, int(heads))
    own = dict.fromkeys(Size._fields) if preset else size._asdict()
    init_args = {
        "preset": preset,
        "in_channels": in_channels,
        "patch_size": list(patch_size),
        "position_grid": list(grid),
        "num_register_tokens": registers,
        "layer_scale": float(plan.get("init_values") or 0.1) if has_scale else None,
        "attention_norm": has_norm,
        **own,
        **({"embedding": list(stages)} if stages else {}),
    }
    return {"class_path": f"{Primus.__module__}.{Primus.__qualname__}", "init_args": init_args}, notes


def _stages(where: str, weights: dict[str, Tensor]) -> list[int]:
    """Return channels of the residual stages that embed patches in PrimusV2; empty for one convolution.

    Biases that its convolutions do without are added to the weights as zeros, which the norm behind takes away.
    """
    if KERNEL in weights:
        return []
    first = "down_projection.stages.{}.blocks.0.conv1.conv.weight"
    count = len({name.split(".")[2] for name in weights if name.startswith("down_projection.stages.")})
    if LAST not in weights or not count or any(first.format(i) not in weights for i in range(count)):
        raise UserError(
            f"{where}: a Primus whose patch embedding is neither V1's nor V2's (V3?), which is not known here"
        )
    for name in [name for name in weights if name.startswith("down_projection.st") and name.endswith(".conv.weight")]:
        bias = name.removesuffix("weight") + "bias"
        if ".skip." not in name and bias not in weights:
            weights[bias] = torch.zeros(len(weights[name]), dtype=weights[name].dtype)
    return [len(weights[first.format(i)]) for i in range(count)]


def swap_first_axes(weights: Mapping[str, Tensor], architecture: Config) -> dict[str, Tensor]:
    """Return weights of a network whose tokens are flattened (h w d), in nnssl's letters, for tokens (w h d), and back.

    The table of positions is transposed. The rotation needs the same care: it is told a token's place by its number, so
    in such a network the first third of a head's channels turns with the second axis and the second third with the
    first. Exchanging these thirds in the query and key projections gives the same features with each third at its axis.
    """
    arguments = architecture["init_args"]
    registers, (a, b, c) = arguments["num_register_tokens"], arguments["position_grid"]
    heads = arguments["heads"] or PRESETS[arguments["preset"]].heads
    swapped = dict(weights)
    table = weights["eva.pos_embed"]
    places = rearrange(table[:, registers:], "1 (b a c) width -> 1 (a b c) width", a=a, b=b, c=c)
    swapped["eva.pos_embed"] = torch.cat([table[:, :registers], places], dim=1)
    for name, value in weights.items():
        if re.search(r"\.attn\.[qk]_proj\.", name):
            thirds = value.unflatten(0, (heads, 3, -1))  # (heads, axis, channels of one axis, ...)
            swapped[name] = thirds[:, [1, 0, 2]].flatten(0, 2).contiguous()
    return swapped


def turn_primus(weights: Mapping[str, Tensor], architecture: Config, turn: Turn) -> tuple[dict[str, Tensor], Config]:
    """Return weights and config of the network that sees turned volumes as the given one sees them unturned."""
    arguments = architecture["init_args"]
    heads = arguments["heads"] or PRESETS[arguments["preset"]].heads
    turned = turn.kernels(weights)
    a, b, c = arguments["position_grid"]
    turned["eva.pos_embed"] = turn.table(weights["eva.pos_embed"], (a, b, c))
    for name, value in weights.items():
        if re.search(r"\.attn\.[qk]_proj\.", name):
            turned[name] = turn.rotary(value, heads)
    sizes = {name: list(turn.sizes(arguments[name])) for name in ("patch_size", "position_grid")}
    return turned, {**architecture, "init_args": arguments | sizes}


def _grid(
    where: str,
    table: Tensor | None,
    registers: int,
    patch_size: tuple[int, ...],
    patches: Iterable[Sequence[int] | None],
) -> tuple[int, ...]:
    """Return tokens along each axis: as the plan's patch counts them where that agrees with the table, else a cube."""
    stated = [tuple(int(p) // e for p, e in zip(patch, patch_size, strict=True)) for patch in patches if patch]
    if table is None:
        return stated[0] if stated else (1, 1, 1)
    count = table.shape[1] - registers
    for grid in stated:
        if prod(grid) == count:
            return grid
    edge = round(count ** (1 / 3))
    if edge**3 == count:
        return (edge, edge, edge)
    raise UserError(
        f"{where}: {count} positions in its table, which is neither a cube nor a patch of its plan ({stated}); "
        "the plan belongs to another file"
    )
