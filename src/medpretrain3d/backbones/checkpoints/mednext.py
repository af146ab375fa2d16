"""MedNeXt in its published names, wherever it stands in a file: AMAES (Munk et al., 2024) and others."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.mednext import PRESETS
from medpretrain3d.errors import UserError

FIRST = "enc_block_0.0.conv1.weight"
PARTS = ("stem", *(f"enc_block_{i}" for i in range(4)), *(f"down_{i}" for i in range(4)), "bottleneck")
CITATION = "Roy, S., et al. (2023). MedNeXt: transformer-driven scaling of ConvNets for segmentation. arXiv:2303.09975."
UNKNOWN_DATA = (
    "nothing in the file tells its data: AMAES was trained on MR of the brain, z-scored, at 1 mm, by masked "
    "reconstruction, and states no licence"
)


def read_mednext(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of a MedNeXt; None for other files.

    Raises:
        UserError: blocks and expansions of no published size.
    """
    prefixes = [name.removesuffix(FIRST) for name in raw.weights if name.endswith(FIRST)]
    if len(prefixes) != 1:
        return None
    own, unused = select(raw.weights, prefixes[0], PARTS)
    stages = [*(f"enc_block_{i}" for i in range(4)), "bottleneck"]
    blocks = tuple(len({name.split(".")[1] for name in own if name.startswith(f"{stage}.")}) for stage in stages)
    expansion = tuple(_expansion(own, stage) for stage in stages)
    width, in_channels = own["stem.weight"].shape[:2]
    found = (width, blocks, expansion)
    preset = next((name for name, size in PRESETS.items() if tuple(size) == found), None)
    if preset is None:
        raise UserError(
            f"{raw.path}: a MedNeXt of width {width}, blocks {blocks} and expansions {expansion}, known are the "
            f"presets {', '.join(PRESETS)}"
        )
    arguments = {"preset": preset, "in_channels": in_channels, "kernel_size": own[FIRST].shape[-1]}
    architecture = {"class_path": "medpretrain3d.backbones.mednext.MedNeXt", "init_args": arguments}
    card: dict[str, Any] = {"preprocessing": {}, "pretraining": {}, "licence": raw.licence, "citations": [CITATION]}
    return EncoderFile(architecture, own, card, raw.sha256, "MedNeXt checkpoint", unused, (UNKNOWN_DATA,))


def _expansion(own: dict[str, Tensor], stage: str) -> int:
    """Return how many times wider a stage's blocks are inside."""
    wide = own[f"{stage}.0.conv2.weight"]
    return wide.shape[0] // wide.shape[1]
