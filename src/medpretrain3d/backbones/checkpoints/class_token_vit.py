"""Vision transformers with a class token and a table of positions, in the names of timm and DINO, of unknown data."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.dino_layout import DinoLayout, dino_prefix, read_dino
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions

LAYOUT = DinoLayout(None, {"reg_token": "register_tokens"})


def read_class_token_vit(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of a checkpoint that is no published one; None for other files.

    Raises:
        UserError: a table of positions that is no cube.
    """
    prefix = dino_prefix(raw.weights)
    return (
        None if prefix is None or f"{prefix}pos_embed" not in raw.weights else read_dino(raw, options, LAYOUT, prefix)
    )
