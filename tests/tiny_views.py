"""Batches of the objectives that look at more than one crop, made of one smooth random volume per sample."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.objectives import DINO, ConsistentViews, DINOv2, SimCLR, VoCo

Triple = tuple[int, int, int]

CONTRASTIVE = {
    SimCLR: partial(SimCLR, projector_channels=(32, 16)),
    VoCo: partial(VoCo, projector_channels=(32, 32, 32)),
    DINO: partial(DINO, num_prototypes=32, head_channels=(32, 16)),
    DINOv2: partial(DINOv2, num_prototypes=32, head_channels=(32, 16), temperature_warmup_steps=0),
    ConsistentViews: lambda backbone: ConsistentViews(
        backbone, 0.5, None if hasattr(backbone, "embed") else (4, 8, 8), projector_channels=(32, 16)
    ),
}
"""Each objective, built small around a backbone."""


def two_views(shape: Triple, first_seed: int = 0, count: int = 2) -> dict[str, Tensor]:
    """What TwoViews gives for crops that stand a quarter of the patch apart, the second one mirrored along W."""
    d, h, w = shape
    shift = [edge // 4 for edge in shape]
    volumes = _smooth([edge + step for edge, step in zip(shape, shift, strict=True)], first_seed, count)
    first = torch.stack([big[:, :d, :h, :w] for big in volumes])
    second = torch.stack([big[:, shift[0] :, shift[1] :, shift[2] :].flip(3) for big in volumes])
    image = torch.stack([first, second], dim=1)
    affine = torch.eye(3, 4).repeat(count, 2, 1, 1)
    affine[:, 1, :, 3] = torch.tensor(shift).float()
    affine[:, 1, 2, 2], affine[:, 1, 2, 3] = -1, shift[2] + w
    return {"image": image, "affine": affine, "seed": torch.arange(first_seed, first_seed + count)}


def multi_crop(shape: Triple, first_seed: int = 0, count: int = 2) -> dict[str, Tensor]:
    """What MultiCrop gives: the two views, and two parts of the first, as wide as a token, as local crops."""
    both = two_views(shape, first_seed, count)
    local = [both["image"][:, 0, :, :, :8, start : start + 8] for start in (0, 8)]
    return {**both, "local": torch.stack(local, dim=1)}


def grid_and_targets(shape: Triple, first_seed: int = 0, count: int = 2) -> dict[str, Tensor]:
    """What GridAndTargets gives for a grid of 1 x 2 x 2 and one target per volume, two for the first."""
    d, h, w = shape
    volumes = _smooth((d, 2 * h, 2 * w), first_seed, count)
    base = [[big[:, :, i : i + h, j : j + w] for i in (0, h) for j in (0, w)] for big in volumes]
    middle = [big[:, :, h // 2 : h // 2 + h, w // 4 : w // 4 + w] for big in volumes]
    return {
        "base": torch.stack([torch.stack(crops) for crops in base]),
        "target": torch.stack([*middle, volumes[0][:, :, :h, w // 2 : w // 2 + w]]),
        "target_of": torch.tensor([*range(count), 0]),
        "share": torch.tensor([[0.375, 0.125, 0.375, 0.125]] * count + [[0.5, 0.5, 0, 0]]),
        "grid": torch.tensor([[1, 2, 2]] * count),
        "seed": torch.arange(first_seed, first_seed + count),
    }


def tiny_views(cls: type, shape: Triple, first_seed: int = 0) -> dict[str, Tensor]:
    """The batch that an objective of CONTRASTIVE is fed."""
    return MADE.get(cls, two_views)(shape, first_seed)


MADE = {VoCo: grid_and_targets, DINOv2: multi_crop}


def _smooth(shape: list[int] | Triple, first_seed: int, count: int) -> list[Tensor]:
    volumes = []
    for seed in range(first_seed, first_seed + count):
        random = torch.Generator().manual_seed(seed)
        coarse = torch.randn(1, 1, 4, 4, 4, generator=random)
        volume = F.interpolate(coarse, tuple(shape), mode="trilinear")[0] / 2
        volumes.append((volume + 0.05 * torch.randn(volume.shape, generator=random)).clamp(-1, 1))
    return volumes
