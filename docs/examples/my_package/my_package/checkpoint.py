"""Checkpoints of one's own, read and written: {"my_lab": 1, "state_dict": {"first.*", "second.*"}}."""

from __future__ import annotations

from pathlib import Path

import torch

from medpretrain3d.backbones.checkpoints import EXPORTS, READERS, EncoderFile, RawCheckpoint, ReadOptions
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError
from my_package.network import PlainNet

NAMES = {"first.": "stages.0.0.", "first_norm.": "stages.0.1.", "second.": "stages.1.0.", "second_norm.": "stages.1.1."}
KEY = "my_lab"


@READERS.register("my_lab")
def read_my_lab(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Read the encoder; None when the file is of somebody else. Whether every tensor fits is checked afterwards."""
    if KEY not in raw.content:
        return None
    weights = {_renamed(name): value for name, value in raw.weights.items()}
    first = weights["stages.0.0.weight"]
    backbone = PlainNet(width=first.shape[0], in_channels=first.shape[1])
    card = {"licence": raw.licence, "citations": [PlainNet.citation]}
    return EncoderFile(to_config(backbone), weights, card, raw.sha256, "checkpoint of my lab")


@EXPORTS.register("my_lab")
def write_my_lab(folder: Path, encoder: EncoderFile) -> None:
    """Write `my_lab.pt`."""
    if not encoder.architecture["class_path"].endswith(".PlainNet"):
        raise UserError("--format my_lab: wanted a PlainNet; export with --format safetensors")
    theirs = {ours: name for name, ours in NAMES.items()}
    weights = {theirs[name[:11]] + name[11:]: value for name, value in encoder.weights.items()}
    torch.save({KEY: 1, "state_dict": weights}, folder / "my_lab.pt")


def _renamed(name: str) -> str:
    return next((ours + name.removeprefix(theirs) for theirs, ours in NAMES.items() if name.startswith(theirs)), name)
