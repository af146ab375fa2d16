"""3DINO (Xu et al., 2025): DINOv2 on MR and CT, a ViT-L with a learned table of positions."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.dino_layout import KERNEL, DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release

THREE_DINO = Release(
    name="3DINO",
    summary="ViT-L (1024 x 24), patch 16, learned positions of 7^3, trained by DINOv2 on MR and CT",
    where="huggingface.co/AICONSlab/3DINO-ViT (3dino_vit_weights.pth), on request",
    architecture={
        "class_path": "medpretrain3d.backbones.dino_vit.DinoViT",
        "init_args": {
            "width": 1024,
            "depth": 24,
            "heads": 16,
            "positions": "learned",
            "position_grid": [7, 7, 7],
            "interpolate_offset": [0.1, -0.1, -0.1],
            "num_register_tokens": 0,
            "norm_eps": 1e-6,
        },
    },
    paradigm="self-distillation (DINOv2)",
    corpus="70,434 MR, 27,815 CT and 566 PET volumes of over ten organs",
    overlap="not checked: its data sets are listed in its paper, not in its repository",
    code_licence="CC BY-NC-ND 4.0",
    weights_licence="CC BY-NC-ND 4.0",
    citation="Xu, T., et al. (2025). A generalizable 3D framework and model for self-supervised learning in medical "
    "imaging. npj Digital Medicine. arXiv:2501.11755.",
    orientation="RAS",
    window={
        "class_path": "medpretrain3d.store.volume_intensity.PercentileWindow",
        "init_args": {"low_percent": 0.05, "high_percent": 99.95},
    },
    restriction="weights that were fine-tuned or continued from these must not be shared, nor used commercially (CC "
    "BY-NC-ND): keep bundles and encoders made of them to yourself",
)
LAYOUT = DinoLayout(THREE_DINO, {})


def read_three_dino(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of 3DINO; None for other files.

    Raises:
        UserError: parts are missing, or a table of positions that is no cube.
    """
    prefix = dino_prefix(raw.weights)
    if prefix is None or f"{prefix}pos_embed" not in raw.weights or f"{prefix}register_tokens" in raw.weights:
        return None
    if not any(name.endswith(".ls1.gamma") for name in raw.weights):
        return None  # DINOv2 scales its layers, and most other transformers do not
    is_cubic = len(set(raw.weights[prefix + KERNEL].shape[2:])) == 1
    return read_dino(raw, options, LAYOUT, prefix) if is_cubic else None
