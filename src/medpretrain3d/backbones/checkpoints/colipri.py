"""COLIPRI (Wald et al., 2025): a Primus-M trained with reports and by reconstruction on chest CTs."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.backbones.checkpoints.primus_layout import read_primus, turn_primus
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import select, window

PREFIX = "image_encoder.backbone."
PARTS = ("down_projection", "eva", "register_tokens")
PATCH = (192, 192, 192)
"""Voxels of the crops it was trained on."""

COLIPRI = Release(
    name="COLIPRI",
    summary="Primus-M (width 864, patch 8), rotary positions alone, trained with reports and by reconstruction",
    where="huggingface.co/microsoft/colipri (model.safetensors)",
    architecture={
        "class_path": "medpretrain3d.backbones.primus.Primus",
        "init_args": {"preset": "M", "position_grid": [24, 24, 24]},
    },
    paradigm="image and report (CLIP), report generation, masked reconstruction",
    corpus="tens of thousands of chest CTs, from Turkey and the USA",
    overlap="not stated in its card; its paper names CT-RATE and NLST",
    code_licence="MIT",
    weights_licence="MIT; its card says for research only, not for clinical practice",
    citation="Wald, T., et al. (2025). Comprehensive language-image pre-training for 3D medical image understanding. "
    "arXiv:2510.15042.",
    orientation="RAS",
    spacing_mm=(2.0, 2.0, 2.0),
    window=window(-1000, 1000),
)
OPEN_ORIENTATION = (
    "orientation {orientation} taken, as package colipri since 0.1.2 states it; 0.1.0 and 0.1.1 stated SAR, and so "
    "does the card: `--orientation SAR` (init_options.orientation) reads it so; docs/checkpoints.md says how to find "
    "out"
)


def read_colipri(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the image encoder of COLIPRI, without projector and pooler; None for other files.

    Raises:
        UserError: a network that is no Primus, or whose heads no tensor shows.
    """
    if f"{PREFIX}down_projection.proj.weight" not in raw.weights:
        return None
    own, unused = select(raw.weights, PREFIX, PARTS)
    own, architecture, notes = read_primus(str(raw.path), own, None, [PATCH], options.token_order or "whd")
    orientation = options.orientation or COLIPRI.orientation or ""
    own, architecture = turn_primus(own, architecture, turn_from(orientation))
    if options.orientation is None:
        notes.append(OPEN_ORIENTATION.format(orientation=orientation))
    return EncoderFile(
        architecture,
        own,
        COLIPRI.card(raw, orientation),
        raw.sha256,
        "COLIPRI checkpoint",
        unused,
        tuple(notes),
        heeded=("token_order",),
    )
