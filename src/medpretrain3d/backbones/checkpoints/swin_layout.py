"""Swin transformers in MONAI's names, as MONAI, VoCo and SuPreM publish them: told from the tensors alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.swin_unetr import BLOCKS, HEADS
from medpretrain3d.configurable import Config

EMBEDDING = "patch_embed.proj.weight"
PARTS = {"patch_embed", *(f"layers{i}{kind}" for i in range(1, 5) for kind in ("", "c"))}
MERGING_NOTE = (
    "patch merging read as `published`: trained with MONAI before 1.5, which took two of eight neighbours twice; MONAI "
    "since then computes other features from the same weights"
)


def swin_prefix(weights: Mapping[str, Tensor]) -> str | None:
    """Return the key prefix of the transformer, such as `backbone.swinViT.`; None where there is no transformer."""
    found = [name.removesuffix(EMBEDDING) for name, value in weights.items() if name.endswith(EMBEDDING)]
    return found[0] if len(found) == 1 and f"{found[0]}layers1.0.blocks.0.norm1.weight" in weights else None


def read_swin(weights: Mapping[str, Tensor], prefix: str) -> tuple[Config, dict[str, Tensor], dict[str, int]]:
    """Return architecture, weights and counts of the rest, for a state dict with a Swin transformer below `prefix`."""
    own, unused = select(weights, prefix, PARTS)
    own = {name.replace(".mlp.fc", ".mlp.linear"): value for name, value in own.items()}
    feature_size, in_channels, *patch_size = own[EMBEDDING].shape
    table = own.get("layers1.0.blocks.0.attn.relative_position_bias_table")
    edge = 7 if table is None else (round(table.shape[0] ** (1 / 3)) + 1) // 2  # (2 w - 1)^3 offsets in a window of w
    depths = [len({n.split(".")[3] for n in own if n.startswith(f"layers{i}.0.blocks.")}) for i in range(1, 5)]
    tables = [own.get(f"layers{i}.0.blocks.0.attn.relative_position_bias_table") for i in range(1, 5)]
    heads = [HEADS[stage] if one is None else one.shape[1] for stage, one in enumerate(tables)]
    sizes = {"depths": (depths, BLOCKS), "heads": (heads, HEADS)}
    arguments = {
        "feature_size": feature_size,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "window_size": [edge] * 3,
        "merging": "published",
        "is_v2": any(name.startswith("layers1c.") for name in own),
        **{name: given for name, (given, usual) in sizes.items() if tuple(given) != usual},
    }
    return {"class_path": "medpretrain3d.backbones.swin_unetr.SwinUNETR", "init_args": arguments}, own, unused
