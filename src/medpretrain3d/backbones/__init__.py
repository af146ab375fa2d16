"""The zoo: 3D encoders behind one contract, and the file that carries their weights from one stage to the next."""

from medpretrain3d.backbones.base import Backbone, Level, check_patch
from medpretrain3d.backbones.checkpoint import EncoderFile, LoadReport, load_encoder, read_encoder, save_encoder
from medpretrain3d.backbones.resenc import ResEnc

__all__ = [
    "Backbone",
    "EncoderFile",
    "Level",
    "LoadReport",
    "ResEnc",
    "check_patch",
    "load_encoder",
    "read_encoder",
    "save_encoder",
]
