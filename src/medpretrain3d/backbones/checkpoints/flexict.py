"""FlexiCT-3D (Li et al., 2026): DINOv3 on 266,227 public CTs, as one transformer for slices and volumes."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.dino_layout import DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release

FLEXICT = Release(
    name="FlexiCT-3D",
    summary="ViT 864 x 16, patch 8, rotary positions computed in bf16, four registers, trained by DINOv3",
    where="huggingface.co/ricklisz123/FlexiCT (ct_3d_teacher.pth, ct_3d_vlm.pth), FlexiCT-3D",
    architecture={
        "class_path": "medpretrain3d.backbones.dino_vit.DinoViT",
        "init_args": {
            "width": 864,
            "depth": 16,
            "heads": 12,
            "patch_size": [8, 8, 8],
            "rope_precision": "bfloat16",
            "qkv_bias": False,
            "norm_eps": 1e-6,
        },
    },
    paradigm="self-distillation (DINOv3)",
    corpus="266,227 CTs of 56 public data sets",
    overlap="its script of training names as examples LUNA16, LUNA25, DeepLesion, ULS23, AMOS, PANORAMA, CT-RATE and "
    "TotalSegmentator, third parties NLST; the whole list is not in public code",
    code_licence="MIT; layer files bear the DINOv3 licence",
    weights_licence="CC BY-NC-ND 4.0",
    citation="Li, Y., et al. (2026). Universal CT representations from anatomy to disease phenotype through "
    "agglomerative pretraining. arXiv:2605.21906.",
    spacing_mm=(2.0, 2.0, 2.0),
    window={
        "class_path": "medpretrain3d.store.volume_intensity.ClippedZScore",
        "init_args": {"low_hu": -1000, "high_hu": 1000},
    },
    restriction="weights that were fine-tuned or continued from these must not be shared, nor used commercially (CC "
    "BY-NC-ND): keep bundles and encoders made of them to yourself",
)
KERNEL = "patch_embed_3D.proj.weight"
LAYOUT = DinoLayout(
    FLEXICT,
    {"patch_embed_3D": "patch_embed", "storage_tokens": "register_tokens", "rope_embed_3D.periods": "periods"},
    is_half_paired=True,
)


def read_flexict(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of FlexiCT for volumes, without its embedding of slices; None for other files.

    Raises:
        UserError: parts are missing.
    """
    prefix = dino_prefix(raw.weights, KERNEL)
    return None if prefix is None else read_dino(raw, options, LAYOUT, prefix)
