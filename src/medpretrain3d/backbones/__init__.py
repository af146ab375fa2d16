"""The zoo: 3D encoders behind one contract, and the file that carries their weights from one stage to the next."""

from medpretrain3d.backbones.base import Backbone, Level, check_patch
from medpretrain3d.backbones.checkpoints import (
    DetectorPart,
    EncoderFile,
    LoadReport,
    ReadOptions,
    VolumesSeen,
    encoder_entry,
    load_encoder,
    provenance_of,
    read_encoder,
    save_encoder,
)
from medpretrain3d.backbones.dino_vit import DinoViT
from medpretrain3d.backbones.genesis_unet import GenesisUNet
from medpretrain3d.backbones.inflated import InflatedCNN
from medpretrain3d.backbones.mednext import MedNeXt
from medpretrain3d.backbones.plain_conv import PlainConv
from medpretrain3d.backbones.primus import Primus
from medpretrain3d.backbones.resenc import ResEnc
from medpretrain3d.backbones.resnet import ResNet3D
from medpretrain3d.backbones.segresnet import SegResNet
from medpretrain3d.backbones.stunet import STUNet
from medpretrain3d.backbones.swin_unetr import SwinUNETR
from medpretrain3d.backbones.token_pyramid import TokenPyramid
from medpretrain3d.backbones.tokens import TokenBackbone
from medpretrain3d.backbones.vit import ViT
from medpretrain3d.registry import import_modules

__all__ = [
    "Backbone",
    "DetectorPart",
    "DinoViT",
    "EncoderFile",
    "GenesisUNet",
    "InflatedCNN",
    "Level",
    "LoadReport",
    "MedNeXt",
    "PlainConv",
    "Primus",
    "ReadOptions",
    "ResEnc",
    "ResNet3D",
    "STUNet",
    "SegResNet",
    "SwinUNETR",
    "TokenBackbone",
    "TokenPyramid",
    "ViT",
    "VolumesSeen",
    "check_patch",
    "encoder_entry",
    "load_encoder",
    "provenance_of",
    "read_encoder",
    "save_encoder",
]

import_modules(__name__, __path__)  # what is here is known by name
