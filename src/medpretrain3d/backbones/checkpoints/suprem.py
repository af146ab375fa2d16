"""SuPreM (Li et al., 2024): supervised segmentation of 2,100 CTs with a U-Net, a SegResNet or a Swin UNETR."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.genesis import FIRST, read_genesis_unet
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.selection import RAS_AXES, select, unit_window
from medpretrain3d.backbones.checkpoints.swin_layout import MERGING_NOTE, read_swin, swin_prefix
from medpretrain3d.configurable import Config

CITATION = (
    "Li, W., Yuille, A., & Zhou, Z. (2024). How well do supervised models transfer to 3D image segmentation? ICLR."
)
STEM = "convInit.conv.weight"


def read_suprem(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of a SuPreM checkpoint, which keeps its network under `net`; None for other files."""
    if "net" not in raw.content:
        return None
    weights, notes = raw.weights, [RAS_AXES]
    prefix = swin_prefix(weights)
    if f"backbone.{FIRST}" in weights:
        architecture, own, unused = read_genesis_unet(weights, "backbone.")
    elif STEM in weights and "down_layers.0.1.conv1.conv.weight" in weights:
        architecture, own, unused = _segresnet(weights)
    elif prefix is not None:
        architecture, own, unused = read_swin(weights, prefix)
        notes.insert(0, MERGING_NOTE)
    else:
        return None
    card = {
        "preprocessing": {"spacing_mm": [1.5, 1.5, 1.5], "window": unit_window(-175, 250)},
        "pretraining": {"paradigm": "supervised segmentation", "corpus": "AbdomenAtlas 1.1"},
        "licence": raw.licence,
        "citations": [CITATION],
    }
    return EncoderFile(architecture, own, card, raw.sha256, "SuPreM checkpoint", unused, tuple(notes))


def _segresnet(weights: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor], dict[str, int]]:
    own, unused = select(weights, "", ("convInit", "down_layers"))
    width, in_channels = own[STEM].shape[:2]
    arguments = {"width": width, "in_channels": in_channels}
    return {"class_path": "medpretrain3d.backbones.segresnet.SegResNet", "init_args": arguments}, own, unused
