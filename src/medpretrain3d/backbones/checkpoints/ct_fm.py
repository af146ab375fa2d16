"""CT-FM (Pai et al., 2025): contrastive pretraining of SegResNet's encoder on 148,394 public CTs."""

from __future__ import annotations

from typing import Any

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_convolutions
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.segresnet_layout import read_segres_encoder, segres_prefix
from medpretrain3d.backbones.checkpoints.selection import unit_window

CT_FM = Release(
    name="CT-FM",
    summary="SegResNet encoder of five stages, batch norm, trained by contrast of patches within a scan",
    where="huggingface.co/project-lighter/ct_fm_feature_extractor, ct_fm_segresnet, whole_body_segmentation",
    architecture={
        "class_path": "medpretrain3d.backbones.segresnet.SegResNet",
        "init_args": {"width": 32, "blocks": [1, 2, 2, 4, 4], "norm": "batch"},
    },
    paradigm="contrastive (intra-sample SimCLR)",
    corpus="148,394 CTs of the Imaging Data Commons (version 14)",
    overlap="by its notebook NLST, C4KC-KiTS (KiTS19) and CT COLONOGRAPHY among others; its query leaves out no "
    "collection of the Imaging Data Commons, which holds LIDC-IDRI (LUNA16)",
    code_licence="MIT",
    weights_licence="Apache-2.0",
    citation="Pai, S., et al. (2025). Vision foundation models for computed tomography. arXiv:2501.09001.",
    spacing_mm=(3.0, 1.0, 1.0),
    window=unit_window(-1024, 2048),
)

SIZES = (5, 1)
"""Stages and channels. MONAI's `SegResNetDS` has batch norm by default, four stages, and what channels one gives it."""


def read_ct_fm(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of a CT-FM checkpoint or of another SegResNet in these names; None for other files.

    Raises:
        UserError: stages are missing.
    """
    prefix = segres_prefix(raw.weights)
    if prefix is None or prefix.startswith("image_encoder."):
        return None
    architecture, own, unused = read_segres_encoder(str(raw.path), raw.weights, prefix, options.norm or "instance")
    orientation = options.orientation or CT_FM.orientation or ""
    own, notes = turn_convolutions(own, orientation)
    arguments = architecture["init_args"]
    norm, sizes = arguments["norm"], (len(arguments["blocks"]), arguments["in_channels"])
    is_affine = norm in ("instance", "group")
    if is_affine or sizes != SIZES:
        if is_affine:
            notes.append("an encoder as CT-FM's, but without its batch norm: its data are not known")
        else:
            notes.append(
                "an encoder of MONAI with {} stages and in_channels {}, where CT-FM's has {} and {}: its data are "
                "not known".format(*sizes, *SIZES)
            )
        if is_affine and options.norm is None:
            notes.append(
                "instance or group norm, no tensor tells: instance assumed; --norm group (init_options.norm) reads it "
                "as group norm"
            )
        how = {"orientation": orientation}
        card: dict[str, Any] = {"preprocessing": how, "pretraining": {}, "licence": raw.licence, "citations": []}
        return EncoderFile(
            architecture,
            own,
            card,
            raw.sha256,
            "MONAI SegResEncoder",
            unused,
            tuple(notes),
            assumed=("norm",) if is_affine and options.norm is None else (),
            heeded=("norm",) if is_affine else (),
        )
    notes += CT_FM.variants(arguments, ("width", "blocks"))
    if norm == "none":
        notes.append("CT-FM's encoder was released with batch norm, this file has none: a variant")
    return EncoderFile(
        architecture, own, CT_FM.card(raw, orientation), raw.sha256, "CT-FM checkpoint", unused, tuple(notes)
    )
