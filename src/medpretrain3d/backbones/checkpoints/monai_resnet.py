"""Residual networks of MONAI, alone or inside of another network, of which no more is known than their tensors."""

from __future__ import annotations

from typing import Any

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.resnet_layout import PARTS, resnet_architecture, resnet_prefix, without_biases
from medpretrain3d.backbones.checkpoints.selection import select

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
"""MONAI's defaults of stem, pooling and stages."""


def read_monai_resnet(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the residual network of a checkpoint in MONAI's names, wherever it stands in it; None for other files.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    prefix = resnet_prefix(raw.weights, (7, 7, 7))
    if prefix is None:
        return None
    own, unused = select(raw.weights, prefix, PARTS)
    orientation = options.orientation or "RAS"
    own, notes = turn_convolutions(without_biases(own), orientation)
    architecture = resnet_architecture(str(raw.path), own, strides=STRIDES)
    notes = [
        f"a ResNet of MONAI, whose data are not known: axes {orientation} assumed, as MONAI's recipes have them",
        "stride 1 in the stem and 2 in pooling and stages assumed, MONAI's defaults: no tensor shows them",
        *notes,
    ]
    card: dict[str, Any] = {
        "preprocessing": {"orientation": orientation},
        "pretraining": {},
        "licence": raw.licence,
        "citations": [],
    }
    return EncoderFile(architecture, own, card, raw.sha256, "MONAI ResNet", unused, tuple(notes), assumed=("strides",))
