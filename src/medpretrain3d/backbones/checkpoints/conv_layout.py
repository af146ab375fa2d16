"""nnU-Net's convolutional encoders, told from their tensors; a plan adds only what no tensor shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medpretrain3d.backbones import plain_conv, resenc
from medpretrain3d.backbones.checkpoints.frame import Turn
from medpretrain3d.backbones.conv_stages import halving_strides
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError


def conv_architecture(
    where: str, weights: dict[str, Tensor], kwargs: Mapping[str, Any] | None
) -> tuple[Config, list[str]]:
    """Describe the encoder whose tensors these are, in our names; biases that it does without are added as zeros.

    Args:
        where: names the file in errors.
        weights: `stem.*` and `stages.*` of a residual encoder, or `stages.*` of a plain one; completed in place.
        kwargs: `arch_kwargs` of the plan: strides, activation, norm. Many files of the nnssl family state none.

    Returns:
        The config, and notes on what had to be assumed.

    Raises:
        UserError: a variant that is not known here: 2D, bottleneck blocks, another norm or activation.
    """
    plan = dict(kwargs or {})
    _refuse_variants(where, weights, plan)
    family = _RESIDUAL if any(".blocks." in name for name in weights) else _PLAIN
    channels, depths, kernels = _stages(where, weights, family)
    strides, notes = _strides(plan, len(channels))
    slope, more = _negative_slope(where, plan)
    added = _add_zero_biases(weights)
    notes += more + ([f"{added} convolutions without bias: zeros stand in, which changes nothing"] if added else [])
    preset = next((name for name, width in family.presets.items() if tuple(width) == (channels, depths)), None)
    init_args = {
        "preset": preset,
        "in_channels": weights[family.input_weight].shape[1],
        "strides": None if strides == halving_strides(len(channels)) else [list(stride) for stride in strides],
        "kernel_sizes": None if set(kernels) == {(3, 3, 3)} else [list(kernel) for kernel in kernels],
        "channels": None if preset else list(channels),
        family.depth_argument: None if preset else list(depths),
        "negative_slope": slope,
    }
    return {"class_path": family.class_path, "init_args": init_args}, notes


def with_turned_strides(kwargs: Mapping[str, Any] | None, turn: Turn) -> dict[str, Any]:
    """Return `arch_kwargs` of a plan with the strides of each stage along the axes that its kernels are turned to."""
    plan = dict(kwargs or {})
    return plan | ({"strides": [turn.stated(stride) for stride in plan["strides"]]} if plan.get("strides") else {})


class _Family(NamedTuple):
    class_path: str
    presets: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    depth_argument: str
    unit_weight: str
    """First convolution of each unit that its depth counts."""
    input_weight: str


_RESIDUAL = _Family(
    "medpretrain3d.backbones.resenc.ResEnc",
    resenc.PRESETS,
    "blocks",
    "stages.{}.blocks.{}.conv1.conv.weight",
    "stem.convs.0.conv.weight",
)
_PLAIN = _Family(
    "medpretrain3d.backbones.plain_conv.PlainConv",
    plain_conv.PRESETS,
    "convs",
    "stages.{}.0.convs.{}.conv.weight",
    "stages.0.0.convs.0.conv.weight",
)


def _stages(
    where: str, weights: Mapping[str, Tensor], family: _Family
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, ...]]]:
    """Return channels, depth and kernel of each stage."""
    pattern = family.unit_weight.replace(".", r"\.").replace("{}", r"(\d+)")
    units = [match.groups() for name in weights if (match := re.fullmatch(pattern, name))]
    depth = Counter(int(stage) for stage, _ in units)
    if not depth or sorted(depth) != list(range(len(depth))):
        found = sorted(depth)
        raise UserError(f"{where}: stages {found} in the file, wanted 0, 1, ... without a gap; it is incomplete")
    needed = [family.input_weight, *(family.unit_weight.format(stage, 0) for stage in sorted(depth))]
    if absent := [name for name in needed if name not in weights]:
        raise UserError(f"{where}: {absent[0]} is not in the file; it is incomplete")
    firsts = [weights[name] for name in needed[1:]]
    depths = tuple(depth[stage] for stage in sorted(depth))
    return tuple(len(first) for first in firsts), depths, [tuple(first.shape[2:]) for first in firsts]


def _refuse_variants(where: str, weights: Mapping[str, Tensor], plan: Mapping[str, Any]) -> None:
    convs = [value for name, value in weights.items() if name.endswith(".conv.weight")]
    if any(conv.ndim != 5 for conv in convs):
        raise UserError(f"{where}: a network of 2D convolutions, wanted a 3D one; choose the 3d_fullres configuration")
    if any(".conv3." in name for name in weights):
        raise UserError(
            f"{where}: a residual encoder with bottleneck blocks, which is not known here; only basic ones are"
        )
    if any(".squeeze_excitation." in name for name in weights):
        raise UserError(f"{where}: a residual encoder with squeeze and excitation, which is not known here")
    norm, options = str(plan.get("norm_op", "InstanceNorm3d")), plan.get("norm_op_kwargs") or {}
    if "InstanceNorm" not in norm or any(name.endswith("running_mean") for name in weights):
        raise UserError(f"{where}: normalises with {norm}, wanted instance norm, as published networks of this kind do")
    if options.get("eps", 1e-5) != 1e-5:
        raise UserError(f"{where}: instance norm with eps {options['eps']}, wanted 1e-5, as published networks have")
    if (plan.get("pool_type") or plan.get("pool") or "conv") != "conv":
        raise UserError(f"{where}: goes to coarser stages by pooling, wanted strided convolutions")
    if plan.get("nonlin_first"):
        raise UserError(f"{where}: activates before it normalises, which is not known here")


def _strides(plan: Mapping[str, Any], num_stages: int) -> tuple[list[tuple[int, int, int]], list[str]]:
    stated = plan.get("strides")
    if not stated:
        return halving_strides(num_stages), [
            "its plan states no strides: 1 in the first stage and 2 in all others assumed"
        ]
    if len(stated) != num_stages:
        message = f"its plan speaks of {len(stated)} stages, the file holds {num_stages}: those of the file are read"
        filled = [_triple(stride) for stride in stated][:num_stages]
        return filled + [(2, 2, 2)] * (num_stages - len(filled)), [message]
    return [_triple(stride) for stride in stated], []


def _triple(stride: int | Sequence[int]) -> tuple[int, int, int]:
    d, h, w = (stride,) * 3 if isinstance(stride, int) else stride
    return (int(d), int(h), int(w))


def _negative_slope(where: str, plan: Mapping[str, Any]) -> tuple[float, list[str]]:
    stated = plan.get("nonlin")
    if stated is None:
        return 0.01, ["its plan states no activation: nnU-Net's LeakyReLU(0.01) assumed"]
    name = str(stated).rpartition(".")[2]
    if name == "LeakyReLU":
        return float((plan.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)), []
    if name == "ReLU":
        return 0.0, []
    raise UserError(f"{where}: activates with {name}, wanted LeakyReLU or ReLU, as published networks of this kind do")


def _add_zero_biases(weights: dict[str, Tensor]) -> int:
    """Return instance norm takes away whatever a bias adds: a convolution without one is one with zeros."""
    bare = [
        name
        for name in weights
        if name.endswith(".conv.weight") and ".skip." not in name and name.replace("weight", "bias") not in weights
    ]
    for name in bare:
        weights[name.removesuffix("weight") + "bias"] = torch.zeros(len(weights[name]), dtype=weights[name].dtype)
    return len(bare)
