"""nnU-Net's convolutional encoders, told from their tensors; a plan adds only what no tensor shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.backbones import plain_conv, resenc
from medpretrain3d.backbones.conv_stages import halving_strides
from medpretrain3d.description import Description
from medpretrain3d.errors import UserError


def conv_architecture(
    where: str, weights: dict[str, Tensor], kwargs: Mapping[str, Any] | None
) -> tuple[Description, list[str]]:
    """Describe the encoder whose tensors these are, in our names; biases that it does without are added as zeros.

    Args:
        where: names the file in errors.
        weights: `stem.*` and `stages.*` of a residual encoder, or `stages.*` of a plain one; completed in place.
        kwargs: `arch_kwargs` of the plan: strides, activation, norm. Many files of the nnssl family state none.

    Returns:
        The description, and notes on what had to be assumed.

    Raises:
        UserError: a variant that is not known here: 2D, bottleneck blocks, another norm or activation.
    """
    plan = dict(kwargs or {})
    _refuse_variants(where, weights, plan)
    is_residual = "stages.0.blocks.0.conv1.conv.weight" in weights
    pattern = (
        r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.conv\.weight"
        if is_residual
        else r"stages\.(\d+)\.0\.convs\.(\d+)\.conv\.weight"
    )
    stages: dict[int, list[int]] = {}
    for name in weights:
        if match := re.fullmatch(pattern, name):
            stages.setdefault(int(match[1]), []).append(int(match[2]))
    if not stages or sorted(stages) != list(range(len(stages))):
        raise UserError(
            f"{where}: stages {sorted(stages)} in the file, wanted 0, 1, ... without a gap; it is incomplete"
        )
    needed = [_first_conv(is_residual, index) for index in range(len(stages))] + [
        "stem.convs.0.conv.weight"
    ] * is_residual
    if absent := [name for name in needed if name not in weights]:
        raise UserError(f"{where}: {absent[0]} is not in the file; it is incomplete")
    firsts = [weights[_first_conv(is_residual, index)] for index in range(len(stages))]
    channels, depths = tuple(len(first) for first in firsts), tuple(len(stages[index]) for index in range(len(stages)))
    kernels = [tuple(first.shape[2:]) for first in firsts]
    strides, notes = _strides(plan, len(stages))
    slope, more = _negative_slope(where, plan)
    added = _add_zero_biases(weights)
    notes += more + ([f"{added} convolutions without bias: zeros stand in, which changes nothing"] if added else [])
    first_conv = weights["stem.convs.0.conv.weight" if is_residual else _first_conv(False, 0)]
    family, presets, what = (
        (resenc.ResEnc, dict(resenc.PRESETS), "blocks")
        if is_residual
        else (plain_conv.PlainConv, dict(plain_conv.PRESETS), "convs")
    )
    preset = next((name for name, width in presets.items() if tuple(width) == (channels, depths)), None)
    is_halving = [tuple(stride) for stride in strides] == halving_strides(len(stages))
    init_args = {
        "preset": preset,
        "in_channels": first_conv.shape[1],
        "strides": None if is_halving else [list(stride) for stride in strides],
        "kernel_sizes": None if set(kernels) == {(3, 3, 3)} else [list(kernel) for kernel in kernels],
        "channels": None if preset else list(channels),
        what: None if preset else list(depths),
        "negative_slope": slope,
    }
    return {"class_path": f"{family.__module__}.{family.__qualname__}", "init_args": init_args}, notes


def _first_conv(is_residual: bool, stage: int) -> str:
    return f"stages.{stage}.blocks.0.conv1.conv.weight" if is_residual else f"stages.{stage}.0.convs.0.conv.weight"


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
        told = f"its plan speaks of {len(stated)} stages, the file holds {num_stages}: those of the file are read"
        filled = [_triple(stride) for stride in stated][:num_stages]
        return filled + [(2, 2, 2)] * (num_stages - len(filled)), [told]
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
    """Instance norm takes away whatever a bias adds: a convolution without one is one with zeros."""
    bare = [
        name
        for name in weights
        if name.endswith(".conv.weight") and ".skip." not in name and name.replace("weight", "bias") not in weights
    ]
    for name in bare:
        weights[name.removesuffix("weight") + "bias"] = torch.zeros(len(weights[name]), dtype=weights[name].dtype)
    return len(bare)
