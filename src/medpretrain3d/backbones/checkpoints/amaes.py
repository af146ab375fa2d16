"""AMAES (Munk et al., 2024): the U-Nets B and XL, with max pooling, pretrained on MR of the brain."""

from __future__ import annotations

import re

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import OWN, turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import select

FIRST = "in_conv.conv1.conv.weight"
STAGES = ("in_conv", *(f"encoder_conv{index}" for index in range(1, 5)))
LEAKY_SLOPE = 0.01

AMAES = Release(
    name="AMAES",
    summary="U-Net XL (64 to 1024 channels; B: 32 to 512), max pooling, instance norm, trained by masked "
    "reconstruction on MR of the brain",
    where="zenodo.org/records/13604788 (unet_xl_lw_dec_fullaug.pth, unet_b_lw_dec_fullaug.pth)",
    architecture={
        "class_path": "medpretrain3d.backbones.plain_conv.PlainConv",
        "init_args": {
            "preset": None,
            "channels": [64, 128, 256, 512, 1024],
            "convs": [2, 2, 2, 2, 2],
            "negative_slope": LEAKY_SLOPE,
            "pool": "max",
        },
    },
    paradigm="reconstruction (masked autoencoding)",
    corpus="BRAINS-45K: 44,756 MR volumes of the brain",
    overlap="MSD (brain tumors), BraTS21, ISLES22, WMH and MSSEG1 are among its data",
    code_licence="none stated",
    weights_licence="none stated",
    citation="Munk, A., Ambsdorf, J., Llambias, S., & Nielsen, M. (2024). AMAES: augmented masked autoencoder "
    "pretraining on public brain MRI data for 3D-native segmentation. arXiv:2408.00640.",
    orientation="RAS",
    spacing_mm=(1.0, 1.0, 1.0),
    normalisation="clipped at the 99th percentile of the volume, then its z-score",
)


def read_amaes(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of a U-Net of AMAES; None for other files, its MedNeXt among them."""
    prefixes = [name.removesuffix(FIRST) for name in raw.weights if name.endswith(FIRST)]
    if len(prefixes) != 1:
        return None
    theirs, unused = select(raw.weights, prefixes[0], STAGES)
    orientation = options.orientation or str(AMAES.orientation)
    turned, _ = turn_convolutions(theirs, orientation)
    own = {_renamed(name): value for name, value in turned.items()}
    stages = [[name for name in theirs if name.startswith(f"{stage}.")] for stage in STAGES]
    arguments = {
        "preset": None,
        "in_channels": theirs[FIRST].shape[1],
        "channels": [theirs[f"{stage}.conv1.conv.weight"].shape[0] for stage in STAGES],
        "convs": [len({name.split(".")[1] for name in names}) for names in stages],
        "negative_slope": LEAKY_SLOPE,
        "pool": "max",
    }
    notes = () if orientation == OWN else (f"kernels turned from {orientation} to {OWN}, exactly where sizes are even",)
    architecture = {**AMAES.architecture, "init_args": arguments}
    card = AMAES.card(raw, orientation)
    return EncoderFile(architecture, own, card, raw.sha256, "AMAES checkpoint", unused, notes)


def _renamed(name: str) -> str:
    """Return `stages.1.0.convs.0.conv.weight` for `encoder_conv1.conv1.conv.weight`; other names as they are."""
    stage, _, inner = name.partition(".")
    if match := re.fullmatch(r"conv(\d+)\.((?:conv|norm)\.\w+)", inner):
        return f"stages.{STAGES.index(stage)}.0.convs.{int(match[1]) - 1}.{match[2]}"
    return name
