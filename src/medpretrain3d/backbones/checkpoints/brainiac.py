"""BrainIAC (Tak et al., 2024): SimCLR on 32,000 MRs of the brain with MONAI's ResNet-50."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.resnet_layout import PARTS, resnet_architecture, resnet_prefix, without_biases
from medpretrain3d.backbones.checkpoints.selection import select

PREFIX = "backbone."
ASSUMED = "RAS"
"""Of the atlas that scans were registered to, whose axes its code does not state."""

BRAINIAC = Release(
    name="BrainIAC",
    summary="ResNet-50 of MONAI, batch norm, trained by contrast of views on MR of the brain",
    where="github.com/AIM-KannLab/BrainIAC (its first release)",
    architecture={"class_path": "medpretrain3d.backbones.resnet.ResNet3D", "init_args": {"depth": 50}},
    paradigm="contrastive (SimCLR)",
    corpus="about 32,000 MR volumes of the brain",
    overlap="not checked: its data sets are listed in its paper",
    code_licence="CC BY-NC",
    weights_licence="CC BY-NC",
    citation="Tak, D., et al. (2024). A foundation model for generalized brain MRI analysis. medRxiv "
    "2024.12.02.24317992.",
    orientation=None,
    normalisation="least and greatest value of each volume to [0, 1], after a resize to 128^3",
    restriction="weights are for non-commercial use (CC BY-NC)",
)


def read_brainiac(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the ResNet of a BrainIAC checkpoint, one of 50 layers below `backbone.`; None for other files.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    if resnet_prefix(raw.weights, (7, 7, 7)) != PREFIX:
        return None
    own, unused = select(raw.weights, PREFIX, PARTS)
    architecture = resnet_architecture(str(raw.path), own)
    if (architecture["init_args"]["depth"], architecture["init_args"]["in_channels"]) != (50, 1):
        return None
    orientation = options.orientation or ASSUMED
    own, notes = turn_convolutions(without_biases(own), orientation)
    if options.orientation is None:
        notes.append(f"axes {ASSUMED} assumed: scans were read as stored, registered to an atlas of unstated axes")
    notes.append("a ResNet of MONAI with stride 2 in stem, pooling and stages assumed; scans were resized to 128^3")
    return EncoderFile(
        architecture, own, BRAINIAC.card(raw, orientation), raw.sha256, "BrainIAC checkpoint", unused, tuple(notes)
    )
