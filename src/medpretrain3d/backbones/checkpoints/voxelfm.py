"""VoxelFM (Moreno-Aguado et al., 2026): DINOv2 on CTs; a pyramid resamples its patch of 14 voxels to 16 or 8."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.dino_layout import DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release

VOXELFM = Release(
    name="VoxelFM",
    summary="ViT 864 x 12, patch 14, rotary positions, four registers, trained by DINOv2",
    where="huggingface.co/rmaguado/VoxelFM (vitb_3d/checkpoints/99999.pth)",
    architecture={
        "class_path": "medpretrain3d.backbones.dino_vit.DinoViT",
        "init_args": {"width": 864, "depth": 12, "heads": 12, "patch_size": [14, 14, 14], "norm_eps": 1e-5},
    },
    paradigm="self-distillation (DINOv2)",
    corpus="over 137,000 CT studies",
    overlap="not stated in public code; its evaluations locate LUNA16's nodules",
    code_licence="Apache-2.0; rope.py bears the DINOv3 licence",
    weights_licence="Apache-2.0 by third parties",
    citation="Moreno-Aguado, R., et al. (2026). Learning robust visual features in computed tomography enables "
    "efficient transfer learning for clinical tasks. arXiv:2604.04133.",
    orientation=None,
    window={
        "class_path": "medpretrain3d.store.intensity.ForegroundZScore",
        "init_args": {"low": -1000, "high": 1900, "mean": -573.8, "std": 461.3},
    },
)
PERIODS = "rope_embed.periods"
LAYOUT = DinoLayout(VOXELFM, {PERIODS: "periods"})


def read_voxelfm(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of VoxelFM; None for other files.

    Raises:
        UserError: parts are missing.
    """
    prefix = dino_prefix(raw.weights)
    return read_dino(raw, options, LAYOUT, prefix) if prefix is not None and prefix + PERIODS in raw.weights else None
