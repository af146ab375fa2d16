"""The zoo: 3D encoders behind one contract, and the file that carries their weights from one stage to the next."""

from medpretrain3d.backbones.base import Backbone, Level, check_patch
from medpretrain3d.backbones.checkpoints import (
    EncoderFile,
    LoadReport,
    ReadOptions,
    load_encoder,
    origin,
    read_encoder,
    save_encoder,
)
from medpretrain3d.backbones.plain_conv import PlainConv
from medpretrain3d.backbones.primus import Primus
from medpretrain3d.backbones.resenc import ResEnc
from medpretrain3d.backbones.token_pyramid import TokenPyramid
from medpretrain3d.backbones.tokens import TokenBackbone
from medpretrain3d.backbones.vit import ViT

__all__ = [
    "Backbone",
    "EncoderFile",
    "Level",
    "LoadReport",
    "PlainConv",
    "Primus",
    "ReadOptions",
    "ResEnc",
    "TokenBackbone",
    "TokenPyramid",
    "ViT",
    "check_patch",
    "load_encoder",
    "origin",
    "read_encoder",
    "save_encoder",
]
