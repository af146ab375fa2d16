"""Swin UNETR of MONAI (self-supervised and supervised) and VoCo's own release of it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.selection import RAS_AXES, UNIT_RANGE, window
from medpretrain3d.backbones.checkpoints.swin_layout import MERGING_NOTE, read_swin, swin_prefix

SWIN_UNETR = "Hatamizadeh, A., et al. (2022). Swin UNETR: Swin transformers for segmentation. arXiv:2201.01266."
SELF_SUPERVISED = (
    "Tang, Y., et al. (2022). Self-supervised pre-training of Swin transformers for 3D medical image analysis. CVPR. "
    "arXiv:2111.14791."
)
DISRUPTIVE = "Valanarasu, J. M. J., et al. (2023). Disruptive autoencoders. arXiv:2307.16896."
VOCO = "Wu, L., Zhuang, J., & Chen, H. (2024). VoCo: volume contrastive learning. CVPR. arXiv:2402.17300."


def read_swin_unetr(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the Swin transformer of a Swin UNETR by MONAI or VoCo; None for other files."""
    weights = _flattened(raw.weights)
    prefix = swin_prefix(weights)
    if prefix is None or prefix.startswith("backbone."):
        return None
    architecture, own, unused = read_swin(weights, prefix)
    name, pretraining, preprocessing, citations = _publication(architecture["init_args"]["is_v2"], set(unused))
    card = {
        "preprocessing": preprocessing,
        "pretraining": pretraining,
        "licence": raw.licence,
        "citations": [*citations, SWIN_UNETR],
    }
    notes = (MERGING_NOTE, RAS_AXES, *([UNIT_RANGE] if preprocessing else []))
    return EncoderFile(architecture, own, card, raw.sha256, name, unused, notes)


def _flattened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return names of MONAI's disruptive autoencoder, `encoder.layers1.0.0.blocks`, without the doubled index."""
    return {re.sub(r"^encoder\.(layers\d)\.0\.0\.", r"encoder.\1.0.", name): value for name, value in weights.items()}


def _publication(is_v2: bool, others: set[str]) -> tuple[str, dict[str, Any], dict[str, Any], list[str]]:
    """Return name, task, preprocessing and papers, told from the heads and decoders beside the transformer."""
    has_decoder = any(part.startswith("decoder") for part in others)
    if is_v2:
        paradigm = "supervised segmentation" if has_decoder else "voco"
        return "VoCo release", {"paradigm": paradigm}, {}, [VOCO]
    if {"rotation_head", "contrastive_head"} & others:
        how = {"spacing_mm": [1.5, 1.5, 2.0], "window": window(-1000, 1000)}
        return "MONAI Swin UNETR, self-supervised", {"paradigm": "swinunetr"}, how, [SELF_SUPERVISED]
    if "encoder" in others or "mask_token" in others:
        return "MONAI disruptive autoencoder", {"paradigm": "disruptive autoencoder"}, {}, [DISRUPTIVE]
    paradigm = "supervised segmentation" if has_decoder else "unknown"
    return "MONAI Swin UNETR", {"paradigm": paradigm}, {}, []
