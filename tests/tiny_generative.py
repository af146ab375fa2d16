"""Models Genesis, VolumeFusion and SwinMultiTask built small, and crops for them: phantoms that differ by seed."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from medpretrain3d.objectives import ModelsGenesis, Objective, SwinMultiTask, VolumeFusion
from tests.tiny import tiny_backbone

# One backbone of each family with a small patch (D, H, W), square where rotation about D asks for it.
PATCHES: dict[str, tuple[int, int, int]] = {
    "ResEnc": (16, 16, 16),
    "ResEnc anisotropic": (8, 16, 16),
    "PlainConv": (8, 16, 16),
    "GenesisUNet": (16, 16, 16),
    "SegResNet": (16, 16, 16),
    "ResNet3D bottlenecks, dilated": (8, 16, 16),
    "MedNeXt anisotropic, kernel 5": (8, 32, 32),
    "InflatedCNN anisotropic": (8, 32, 32),
    "SwinUNETR-V2 anisotropic": (16, 32, 32),
    "ViT": (16, 16, 16),
    "Primus": (16, 16, 16),
}
GENERATIVE = {
    ModelsGenesis: partial(ModelsGenesis, num_shuffled_blocks=500),
    VolumeFusion: partial(VolumeFusion, box_edge=(4, 12)),
    SwinMultiTask: partial(SwinMultiTask, contrast_channels=16),
}
PAIRS = [(cls, name) for cls in GENERATIVE for name in PATCHES]


def tiny_generative(cls: type[Objective], name: str = "ResEnc") -> Objective:
    """A class on the backbone of that name, the same weights every time."""
    return GENERATIVE[cls](tiny_backbone(name))


def generative_batch(cls: type[Objective], name: str = "ResEnc", first_seed: int = 5) -> dict[str, Tensor]:
    """Two samples; VolumeFusion gets pairs."""
    seed = torch.arange(first_seed, first_seed + 2)
    image = torch.stack([body(PATCHES[name], int(each)) for each in seed])
    if cls is VolumeFusion:
        image = torch.stack([image, torch.stack([body(PATCHES[name], 1000 + int(each)) for each in seed])], dim=1)
    return {"image": image, "seed": seed}


def body(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Tissue in air with a bone off its middle, (1, D, H, W) in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    place = torch.stack(axes) + 0.3 * (torch.rand(3, 1, 1, 1, generator=random) - 0.5)
    image = torch.full(shape, -0.9)
    image[place.norm(dim=0) < 0.9] = 0.05
    image[(place[1:] - 0.3).norm(dim=0) < 0.25] = 0.8
    return (image + 0.02 * torch.randn(shape, generator=random))[None]
