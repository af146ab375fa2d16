"""Models Genesis (Zhou et al., 2021): the encoder of its 3D U-Net."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.selection import RAS_AXES, select, unit_window
from medpretrain3d.backbones.genesis_unet import STAGES
from medpretrain3d.configurable import Config

FIRST = "down_tr64.ops.0.conv1.weight"
CITATION = (
    "Zhou, Z., Sodha, V., Pang, J., Gotway, M. B., & Liang, J. (2021). Models Genesis. Medical Image Analysis, 67."
)


def read_genesis(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of a Models Genesis checkpoint; None for other files."""
    if FIRST not in raw.weights:
        return None
    architecture, own, unused = read_genesis_unet(raw.weights, "")
    card = {
        # The published chest CT model; volumes were not resampled.
        "preprocessing": {"window": unit_window(-1000, 1000)},
        "pretraining": {"paradigm": "models genesis"},
        "licence": raw.licence,
        "citations": [CITATION],
    }
    return EncoderFile(architecture, own, card, raw.sha256, "Models Genesis checkpoint", unused, (RAS_AXES,))


def read_genesis_unet(weights: Mapping[str, Tensor], prefix: str) -> tuple[Config, dict[str, Tensor], dict[str, int]]:
    """Return architecture, weights and counts of the rest, for a state dict with this U-Net below `prefix`."""
    own, unused = select(weights, prefix, STAGES)
    half_width, in_channels = own[FIRST].shape[:2]
    arguments = {"in_channels": in_channels, "width": 2 * half_width}
    return {"class_path": "medpretrain3d.backbones.genesis_unet.GenesisUNet", "init_args": arguments}, own, unused
