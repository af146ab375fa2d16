"""Merlin (Blankemeier et al., 2024): a ResNet-152 inflated to volumes, trained with reports of abdomens."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.resnet_layout import PARTS, STEM, resnet_architecture, resnet_prefix
from medpretrain3d.backbones.checkpoints.selection import select, unit_window

STEM_KERNEL = (3, 7, 7)
STRIDES = [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]

MERLIN = Release(
    name="Merlin",
    summary="ResNet-152 inflated to volumes, batch norm, stem 3x7x7, trained with reports and diagnoses",
    where="huggingface.co/stanfordmimi/Merlin (i3_resnet_clinical_longformer_best_clip_*.pt and the five-year file)",
    architecture={
        "class_path": "medpretrain3d.backbones.resnet.ResNet3D",
        "init_args": {"depth": 152, "stem_kernel": list(STEM_KERNEL), "strides": STRIDES},
    },
    paradigm="image and report (CLIP), diagnoses",
    corpus="15,331 abdominal CTs of Stanford",
    overlap="not stated; scans of Stanford's emergency department, which are public as the Merlin Abdominal CT Dataset",
    code_licence="MIT",
    weights_licence="MIT",
    citation="Blankemeier, L., et al. (2024). Merlin: a vision language foundation model for 3D computed tomography. "
    "arXiv:2406.06512.",
    orientation="RAS",
    spacing_mm=(3.0, 1.5, 1.5),
    window=unit_window(-1000, 1000),
)


def read_merlin(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the image encoder of Merlin, for one channel instead of three times the same; None for other files.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    prefix = resnet_prefix(raw.weights, STEM_KERNEL)
    if prefix is None:
        return None
    own, unused = select(raw.weights, prefix, PARTS)
    own[STEM] = own[STEM].sum(dim=1, keepdim=True)
    orientation = options.orientation or MERLIN.orientation or ""
    # The network turns (R, A, S) into (S, R, A) before its first convolution.
    own, notes = turn_convolutions(own, orientation[-1:] + orientation[:-1])
    notes.insert(0, "its three input channels, which saw the same image, added up to one")
    architecture = resnet_architecture(str(raw.path), own, strides=STRIDES)
    return EncoderFile(
        architecture, own, MERLIN.card(raw, orientation), raw.sha256, "Merlin checkpoint", unused, tuple(notes)
    )
