"""TAP-CT (Veenboer et al., 2025): DINOv2 on CTs with flat crops and the finest patch of all, (4, 8, 8) voxels."""

from __future__ import annotations

from dataclasses import replace

from medpretrain3d.backbones.checkpoints.dino_layout import KERNEL, DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release

TAP_CT = Release(
    name="TAP-CT",
    summary="ViT-B (768 x 12), patch 4x8x8, learned positions of 3x28x28, four registers, trained by DINOv2",
    where="huggingface.co/fomofo/tap-ct-b-3d, tap-ct-s-3d (model.safetensors)",
    architecture={
        "class_path": "medpretrain3d.backbones.dino_vit.DinoViT",
        "init_args": {
            "width": 768,
            "depth": 12,
            "heads": 12,
            "patch_size": [4, 8, 8],
            "positions": "learned",
            "position_grid": [3, 28, 28],
            "norm_eps": 1e-6,
        },
    },
    paradigm="self-distillation (DINOv2)",
    corpus="105,000 CTs of its authors' own (in-house)",
    overlap="not stated; its paper calls all scans in-house",
    code_licence="no public repository found; remote code beside the weights",
    weights_licence="not confirmed: read the card of the repository you take it from",
    citation="Veenboer, T., et al. (2025). TAP-CT: 3D task-agnostic pretraining of computed tomography foundation "
    "models. arXiv:2512.00872.",
    window={
        "class_path": "medpretrain3d.store.intensity.ForegroundZScore",
        "init_args": {"low": -1008, "high": 822, "mean": -86.8086, "std": 322.6347},
    },
)
LAYOUT = DinoLayout(TAP_CT, {})
UNCONFIRMED = (
    "names, depth and norm eps (1e-6) of TAP-CT are DINOv2's, not read in its own code: compare the features of one "
    "crop with its remote code (docs/checkpoints.md) before relying on them"
)


def read_tap_ct(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of TAP-CT; None for other files.

    Raises:
        UserError: parts are missing, or a table of positions of an unknown grid.
    """
    prefix = dino_prefix(raw.weights)
    if prefix is None or f"{prefix}pos_embed" not in raw.weights:
        return None
    is_flat = len(set(raw.weights[prefix + KERNEL].shape[2:])) > 1
    if not is_flat or not any(name.endswith(".ls1.gamma") for name in raw.weights):
        return None
    encoder = read_dino(raw, options, LAYOUT, prefix)
    return replace(encoder, notes=(*encoder.notes, UNCONFIRMED))
