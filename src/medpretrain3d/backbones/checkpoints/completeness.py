"""Whether a checkpoint holds the network that it speaks of: every tensor, in its shape, and none besides."""

from __future__ import annotations

from pathlib import Path

import torch

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.description import build
from medpretrain3d.errors import UserError


def check_complete(path: Path, encoder: EncoderFile) -> None:
    """Compare the weights with the state dict of the described network, which is built without memory.

    Raises:
        UserError: a tensor is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        backbone = build(encoder.architecture)
    assert isinstance(backbone, Backbone)
    wanted, got = backbone.state_dict(), encoder.weights
    faults = {
        "missing": sorted(wanted.keys() - got.keys()),
        "that the network does not have": sorted(got.keys() - wanted.keys()),
        "of another shape": [
            f"{name}: file {tuple(got[name].shape)}, network {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & got.keys())
            if wanted[name].shape != got[name].shape
        ],
    }
    told = [f"{len(names)} tensors {fault} ({names[0]})" for fault, names in faults.items() if names]
    if told:
        raise UserError(
            f"{path}: its weights are not the {backbone.name} of {encoder.format} that its plan describes: "
            f"{'; '.join(told)}; the file is incomplete or of a variant that is not known here"
        )
