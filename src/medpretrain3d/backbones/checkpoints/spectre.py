"""SPECTRE (Claessens et al., 2025): DINO on CTs, and reports, at native spacing, with patches of (8, 16, 16) voxels."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.dino_layout import DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import unit_window

SPECTRE = Release(
    name="SPECTRE",
    summary="ViT 1080 x 24, patch 8x16x16, rotary positions, trained by DINO, and with reports unless `no_vla`",
    where="huggingface.co/cclaess/SPECTRE (spectre_backbone_vit_large_patch16_128_no_vla.pt for dense use)",
    architecture={
        "class_path": "medpretrain3d.backbones.dino_vit.DinoViT",
        "init_args": {
            "width": 1080,
            "depth": 24,
            "heads": 12,
            "patch_size": [8, 16, 16],
            "num_register_tokens": 0,
            "rope_base": 1000.0,
            "layer_scale": 1.0,
            "norm_eps": 1e-5,
        },
    },
    paradigm="self-distillation (DINO), image and report (SigLIP)",
    corpus="CT-RATE, INSPECT, Merlin, NLST, AMOS, AbdomenAtlas, PANORAMA and AbdomenCT-1K; reports of the first three",
    overlap="NLST, AMOS, PANORAMA, AbdomenAtlas and AbdomenCT-1K (which holds scans of KiTS19, LiTS, Pancreas-CT and "
    "the Medical Segmentation Decathlon), without their labels",
    code_licence="MIT",
    weights_licence="CC BY-NC-SA 4.0",
    citation="Claessens, C., et al. (2025). Scaling self-supervised and cross-modal pretraining for volumetric CT "
    "transformers. arXiv:2511.17209.",
    orientation="RAS",
    window=unit_window(-1000, 1000),
    restriction="weights are for non-commercial use, and what is made of them is to be shared alike (CC BY-NC-SA)",
)
PERIODS = "rope.periods"
LAYOUT = DinoLayout(SPECTRE, {PERIODS: "periods", "reg_token": "register_tokens"}, is_half_paired=True)


def read_spectre(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the backbone of SPECTRE, not its combiner of crops; None for other files.

    Raises:
        UserError: parts are missing.
    """
    prefix = dino_prefix(raw.weights)
    return read_dino(raw, options, LAYOUT, prefix) if prefix is not None and prefix + PERIODS in raw.weights else None
