"""Swin UNETR of MONAI (self-supervised and supervised) and VoCo's own release of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import RAS_AXES, unit_window
from medpretrain3d.backbones.checkpoints.swin_layout import MERGING_NOTE, read_swin, swin_prefix

SWIN_UNETR = "Hatamizadeh, A., et al. (2022). Swin UNETR: Swin transformers for segmentation. arXiv:2201.01266."
SELF_SUPERVISED = (
    "Tang, Y., et al. (2022). Self-supervised pre-training of Swin transformers for 3D medical image analysis. CVPR. "
    "arXiv:2111.14791."
)
SELF_SUPERVISED_CORPUS = "about 5,050 CTs: HNSCC, LUNA16, LIDC-IDRI, TCIA's CT colonography and COVID-19"
BRAIN_SEG_FOUNDER = Release(
    name="BrainSegFounder",
    summary="Swin UNETR of MONAI with depths of its own, trained by MONAI's three self-supervised tasks on brain MR",
    where="huggingface.co/smilelab/BrainSegFounder; github.com/lab-smile/BrainSegFounder (links)",
    architecture={
        "class_path": "medpretrain3d.backbones.swin_unetr.SwinUNETR",
        "init_args": {"feature_size": 48, "in_channels": 2, "merging": "published"},
    },
    paradigm="inpainting, rotation, contrast",
    corpus="T1 and T2 MR of 41,400 participants of UK Biobank",
    overlap="files of its second stage saw BraTS or ATLAS v2.0 as well, without labels",
    code_licence="GPL-3.0",
    weights_licence="material transfer agreement of UK Biobank on its hub page, GPL-3.0 in its repository",
    citation="Cox, J., et al. (2024). BrainSegFounder: towards 3D foundation models for neuroimage segmentation. "
    "Medical Image Analysis. arXiv:2406.10395.",
    orientation="RAS",
    normalisation="a fixed range of values to [0, 1], whose limits are not stated",
)
LOOKS_ALIKE = (
    "told by {told}, which a Swin UNETR of one's own may have as well: then it is not {name}, and neither {facts} are "
    "its own"
)
"""What is said of a release that no name in its files tells apart."""
DISRUPTIVE = "Valanarasu, J. M. J., et al. (2023). Disruptive autoencoders. arXiv:2307.16896."
VOCO_RELEASE = "VoCo release"
VOCO = "Wu, L., Zhuang, J., & Chen, H. (2024). VoCo: volume contrastive learning. CVPR. arXiv:2402.17300."


def read_swin_unetr(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the Swin transformer of a Swin UNETR by MONAI or VoCo; None for other files."""
    weights = _flattened(raw.weights)
    prefix = swin_prefix(weights)
    if prefix is None or prefix.startswith("backbone."):
        return None
    architecture, own, unused = read_swin(weights, prefix)
    if _is_brain_seg_founder(architecture["init_args"], set(unused)):
        doubt = LOOKS_ALIKE.format(
            told="MONAI's self-supervised heads with several channels or other depths",
            name=BRAIN_SEG_FOUNDER.name,
            facts="data nor licence",
        )
        card, of_founder = BRAIN_SEG_FOUNDER.card(raw), (doubt, MERGING_NOTE, RAS_AXES)
        return EncoderFile(architecture, own, card, raw.sha256, "BrainSegFounder checkpoint", unused, of_founder)
    name, pretraining, preprocessing, citations = _publication(architecture["init_args"]["is_v2"], set(unused))
    card = {
        "preprocessing": preprocessing,
        "pretraining": pretraining,
        "licence": raw.licence,
        "citations": [*citations, SWIN_UNETR],
    }
    notes = [MERGING_NOTE, RAS_AXES]
    if name == VOCO_RELEASE:
        told = "the convolution before each stage (`use_v2` of MONAI)"
        notes.insert(0, LOOKS_ALIKE.format(told=told, name="VoCo's", facts="paradigm nor citation"))
    return EncoderFile(architecture, own, card, raw.sha256, name, unused, tuple(notes))


def _is_brain_seg_founder(arguments: Mapping[str, Any], others: set[str]) -> bool:
    """Whether these are the tasks of MONAI's self-supervision with depths or channels that MONAI did not publish."""
    has_tasks = bool({"rotation_head", "contrastive_head"} & others)
    return has_tasks and ("depths" in arguments or arguments["in_channels"] > 1)


def _flattened(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return names of MONAI's disruptive autoencoder, `encoder.layers1.0.0.blocks`, without the doubled index."""
    return {re.sub(r"^encoder\.(layers\d)\.0\.0\.", r"encoder.\1.0.", name): value for name, value in weights.items()}


def _publication(is_v2: bool, others: set[str]) -> tuple[str, dict[str, Any], dict[str, Any], list[str]]:
    """Return name, task, preprocessing and papers, told from the heads and decoders beside the transformer."""
    has_decoder = any(part.startswith("decoder") for part in others)
    if is_v2:
        paradigm = "supervised segmentation" if has_decoder else "voco"
        return VOCO_RELEASE, {"paradigm": paradigm}, {}, [VOCO]
    if {"rotation_head", "contrastive_head"} & others:
        pretraining = {"paradigm": "swinunetr", "corpus": SELF_SUPERVISED_CORPUS}
        how = {"window": unit_window(-1000, 1000)}
        return "MONAI Swin UNETR, self-supervised", pretraining, how, [SELF_SUPERVISED]
    if "encoder" in others or "mask_token" in others:
        return "MONAI disruptive autoencoder", {"paradigm": "disruptive autoencoder"}, {}, [DISRUPTIVE]
    paradigm = "supervised segmentation" if has_decoder else "unknown"
    return "MONAI Swin UNETR", {"paradigm": paradigm}, {}, []
