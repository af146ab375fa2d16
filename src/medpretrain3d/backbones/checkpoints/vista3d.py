"""VISTA3D and NV-Segment-CT (He et al., 2024): the encoder of a promptable segmentation of 127 structures."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.segresnet_layout import read_segres_encoder, segres_prefix
from medpretrain3d.backbones.checkpoints.selection import unit_window

VISTA3D = Release(
    name="VISTA3D",
    summary="SegResNet encoder of five stages, width 48, instance norm, trained to segment 127 organs and lesions",
    where="huggingface.co/nvidia/NV-Segment-CT (vista3d_pretrained_model/model.pt), nvidia/NV-Segment-CTMR",
    architecture={
        "class_path": "medpretrain3d.backbones.segresnet.SegResNet",
        "init_args": {"width": 48, "blocks": [1, 2, 2, 4, 4], "norm": "instance"},
    },
    paradigm="supervised segmentation",
    corpus="11,454 CTs; NV-Segment-CTMR went on with over 30,000 CT and MR",
    overlap="by its data lists: with labels Medical Segmentation Decathlon (lesions of lung, liver, colon, pancreas), "
    "TotalSegmentator, AMOS, AbdomenCT-1K, BTCV, CT-ORG and VerSe; LIDC-IDRI (LUNA16) at least with pseudo-labels; "
    "NLST",
    code_licence="Apache-2.0",
    weights_licence="contradictory: NVIDIA Open Model (CT), non-commercial (CTMR) by the table of its README, NVIDIA "
    "OneWay Noncommercial for all by its end",
    citation="He, Y., et al. (2024). VISTA3D: a unified segmentation foundation model for 3D medical imaging. "
    "arXiv:2406.05285.",
    orientation="RAS",
    spacing_mm=(1.5, 1.5, 1.5),
    window=unit_window(-963.8247715525971, 1053.678477684517),
    restriction="by part of its own statements the weights are for non-commercial use only",
)


def read_vista3d(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the image encoder of a VISTA3D checkpoint; None for other files.

    Raises:
        UserError: stages are missing.
    """
    prefix = segres_prefix(raw.weights)
    if prefix is None or not prefix.startswith("image_encoder."):
        return None
    architecture, own, unused = read_segres_encoder(str(raw.path), raw.weights, prefix, "instance")
    orientation = options.orientation or VISTA3D.orientation or ""
    own, notes = turn_convolutions(own, orientation)
    notes += VISTA3D.variants(architecture["init_args"], ("width", "blocks"))
    return EncoderFile(
        architecture, own, VISTA3D.card(raw, orientation), raw.sha256, "VISTA3D checkpoint", unused, tuple(notes)
    )
