"""One tiny example of every backbone: what the contract tests of backbones, objectives and detectors are built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medpretrain3d.backbones import Backbone, PlainConv, Primus, ResEnc, TokenPyramid, ViT


@dataclass(frozen=True)
class Tiny:
    """How a class is built small.

    `make` takes `in_channels` and `checkpointing`. `shape` is an input with another size along each axis; the finest
    feature maps are 4 long along D, since torch's bf16 convolutions on the CPU are wrong on maps of 2.
    """

    make: Callable[..., Backbone]
    shape: tuple[int, int, int]
    has_anisotropic_strides: bool = False
    """Whether the example steps differently along D."""


ANISOTROPIC = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)]

TINY_BACKBONES: dict[str, Tiny] = {
    "ResEnc": Tiny(lambda **options: ResEnc("XXS", **options), (32, 16, 24)),
    "ResEnc anisotropic": Tiny(lambda **options: ResEnc("XXS", strides=ANISOTROPIC, **options), (8, 16, 24), True),
    "PlainConv": Tiny(lambda **options: PlainConv("XXS", **options), (16, 8, 24)),
    "Primus": Tiny(
        lambda **options: Primus("XXS", position_grid=(2, 2, 2), num_register_tokens=1, **options), (16, 8, 24)
    ),
    "ViT": Tiny(lambda **options: ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2), **options), (16, 8, 24)),
    "ViT anisotropic": Tiny(lambda **options: ViT("XXS", patch_size=(4, 8, 8), **options), (8, 16, 24), True),
    "TokenPyramid": Tiny(lambda **options: TokenPyramid(ViT("XXS", patch_size=(8, 8, 8), **options)), (32, 16, 48)),
}


def tiny_backbone(name: str = "ResEnc", **options: object) -> Backbone:
    """The example called `name`, the same weights every time."""
    torch.manual_seed(0)
    return TINY_BACKBONES[name].make(**options)
