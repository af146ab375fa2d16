"""Tiny examples of every backbone: what the contract tests of backbones, objectives and detectors are built from.

A class that is not named here has one by its own `tiny`: a new backbone is tested by existing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from medpretrain3d.backbones import (
    Backbone,
    GenesisUNet,
    InflatedCNN,
    MedNeXt,
    PlainConv,
    Primus,
    ResEnc,
    ResNet3D,
    SegResNet,
    SwinUNETR,
    TokenBackbone,
    TokenPyramid,
    ViT,
)
from medpretrain3d.registry import known_classes


@dataclass
class Tiny:
    """How a class is built small.

    `make` takes `in_channels` and `checkpointing`. `given_shape` is an input with another size along each axis; the
    finest feature maps are 4 long along D, since torch's bf16 convolutions on the CPU are wrong on maps of 2.
    """

    make: Callable[..., Backbone]
    given_shape: tuple[int, int, int] | None = None
    has_anisotropic_strides: bool | None = False
    """Whether the example steps differently along D; None where nobody says."""

    @cached_property
    def strides(self) -> list[tuple[int, int, int]]:
        with torch.device("meta"):
            return [level.stride for level in self.make().levels]

    @property
    def shape(self) -> tuple[int, int, int]:
        """An input with another size along each axis."""
        return self.given_shape or self.cells(4, 2, 3)

    @property
    def patch(self) -> tuple[int, int, int]:
        """A small patch that holds two cells of the coarsest level."""
        return self.cells(2, 2, 2)

    def cells(self, *counts: int) -> tuple[int, int, int]:
        d, h, w = (count * step for count, step in zip(counts, self.strides[-1], strict=True))
        return (d, h, w)


ANISOTROPIC = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)]

TINY_BACKBONES: dict[str, Tiny] = {
    "ResEnc": Tiny(lambda **options: ResEnc("XXS", **options), (32, 16, 24)),
    "ResEnc anisotropic": Tiny(lambda **options: ResEnc("XXS", strides=ANISOTROPIC, **options), (8, 16, 24), True),
    "PlainConv": Tiny(lambda **options: PlainConv("XXS", **options), (16, 8, 24)),
    "Primus": Tiny(
        lambda **options: Primus("XXS", position_grid=(2, 2, 2), num_register_tokens=1, **options), (16, 8, 24)
    ),
    "PlainConv pooling": Tiny(
        lambda **options: PlainConv(None, channels=(4, 8, 16), convs=(1, 2, 1), pool="max", **options), (16, 8, 24)
    ),
    "GenesisUNet": Tiny(lambda **options: GenesisUNet(width=8, **options), (32, 16, 24)),
    "GenesisUNet anisotropic": Tiny(
        lambda **options: GenesisUNet(strides=[(1, 2, 2), (1, 2, 2), (2, 2, 2)], width=8, **options), (8, 24, 16), True
    ),
    "InflatedCNN": Tiny(lambda **options: InflatedCNN("test_resnet", **options), (128, 32, 64)),
    "InflatedCNN anisotropic": Tiny(
        lambda **options: InflatedCNN("test_efficientnet", num_flat=2, **options), (32, 64, 32), True
    ),
    "SegResNet": Tiny(lambda **options: SegResNet(8, **options), (32, 16, 24)),
    "SegResNet anisotropic": Tiny(
        lambda **options: SegResNet(8, strides=[(1, 2, 2), (1, 2, 2), (2, 2, 2)], **options), (8, 24, 16), True
    ),
    "ResNet3D": Tiny(lambda **options: ResNet3D(18, width=8, **options), (128, 32, 64)),
    "ResNet3D bottlenecks, dilated": Tiny(
        lambda **options: ResNet3D(50, is_dilated=True, width=4, **options), (32, 16, 24)
    ),
    "ResNet3D anisotropic, instance norm": Tiny(
        lambda **options: ResNet3D(
            10, strides=[(1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (2, 2, 2)], norm="instance", width=8, **options
        ),
        (16, 64, 32),
        True,
    ),
    "MedNeXt": Tiny(lambda **options: MedNeXt("XXS", **options), (64, 32, 48)),
    "MedNeXt anisotropic, kernel 5": Tiny(
        lambda **options: MedNeXt("XXS", kernel_size=5, strides=[*ANISOTROPIC[1:], (1, 2, 2)], **options),
        (8, 48, 32),
        True,
    ),
    "SwinUNETR": Tiny(lambda **options: SwinUNETR(12, window_size=(3, 3, 3), **options), (64, 32, 32)),
    "SwinUNETR-V2 anisotropic": Tiny(
        lambda **options: SwinUNETR(12, patch_size=(1, 2, 2), window_size=(3, 3, 3), is_v2=True, **options),
        (16, 32, 64),
        True,
    ),
    "ViT": Tiny(lambda **options: ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2), **options), (16, 8, 24)),
    "ViT anisotropic": Tiny(lambda **options: ViT("XXS", patch_size=(4, 8, 8), **options), (8, 16, 24), True),
    "TokenPyramid": Tiny(lambda **options: TokenPyramid(ViT("XXS", patch_size=(8, 8, 8), **options)), (32, 16, 48)),
}
BASES = (Backbone, TokenBackbone)
_named = {name.split()[0].partition("-")[0] for name in TINY_BACKBONES}
for _cls in known_classes(Backbone).values():
    if _cls not in BASES and _cls.__name__ not in _named:
        TINY_BACKBONES[_cls.__name__] = Tiny(partial(_cls, **_cls.tiny), has_anisotropic_strides=None)


def tiny_backbone(name: str = "ResEnc", **options: object) -> Backbone:
    """The example called `name`, the same weights every time."""
    torch.manual_seed(0)
    return TINY_BACKBONES[name].make(**options)
