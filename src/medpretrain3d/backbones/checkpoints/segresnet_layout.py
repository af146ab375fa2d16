"""SegResNet's encoder in the names of MONAI's `SegResEncoder`, told from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError

STEM = "conv_init.weight"
FIRST = "layers.0.blocks.0.conv1.weight"


def segres_prefix(weights: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of the encoder, such as `image_encoder.encoder.`; None where there is none, or several."""
    found = [name.removesuffix(STEM) for name in weights if name.endswith(STEM)]
    return found[0] if len(found) == 1 and found[0] + FIRST in weights else None


def read_segres_encoder(
    where: str, weights: Mapping[str, Tensor], prefix: str, affine_norm: Literal["instance", "group"]
) -> tuple[Config, dict[str, Tensor], dict[str, int]]:
    """Return architecture, weights under our names and counts of the rest.

    Args:
        where: names the file in errors.
        weights: the whole state dict.
        prefix: of `segres_prefix`.
        affine_norm: what norms with scale and shift and no statistics are: no tensor tells.

    Raises:
        UserError: stages with a gap; the file is incomplete.
    """
    own, unused = select(weights, prefix, ("conv_init", "layers"))
    blocks: dict[int, set[int]] = {}
    for name in own:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    if sorted(blocks) != list(range(len(blocks))):
        raise UserError(
            f"{where}: stages {sorted(blocks)} in the file, wanted 0, 1, ... without a gap; it is incomplete"
        )
    width, in_channels = own[STEM].shape[:2]
    has_norms = "layers.0.blocks.0.norm1.weight" in own
    is_batch_norm = "layers.0.blocks.0.norm1.running_mean" in own
    arguments = {
        "width": width,
        "in_channels": in_channels,
        "blocks": [len(blocks[index]) for index in sorted(blocks)],
        "norm": "batch" if is_batch_norm else affine_norm if has_norms else "none",
    }
    architecture = {"class_path": "medpretrain3d.backbones.segresnet.SegResNet", "init_args": arguments}
    return architecture, {_own_name(name): value for name, value in own.items()}, unused


def _own_name(name: str) -> str:
    """Return the name in MONAI's older `SegResNet`, which is ours."""
    if name == STEM:
        return "convInit.conv.weight"
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.weight", name):
        return f"down_layers.{int(match[1]) + 1}.0.conv.weight"
    if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(conv\d)\.weight", name):
        return f"down_layers.{match[1]}.{int(match[2]) + 1}.{match[3]}.conv.weight"
    if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(norm\d\..+)", name):
        return f"down_layers.{match[1]}.{int(match[2]) + 1}.{match[3]}"
    return name  # of a variant: named when it is compared with the network
