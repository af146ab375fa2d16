"""What hiding costs and saves: a training step of each masked objective against the step that hides nothing.

The peer of the transformer restores from all tokens; the peer of the sparse network is the dense one, MAE with the same
U-Net decoder. Same network, batch, mask and loss in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.timing import Row, race
from medpretrain3d.backbones import ResEnc, ViT
from medpretrain3d.objectives import MAE, Objective, SparK


class Unmasked(MAE):
    """MAE whose transformer sees every token."""

    def restore(self, image: Tensor, hidden_blocks: Tensor, block: tuple[int, int, int]) -> Tensor:
        return super().restore(image, torch.zeros_like(hidden_blocks), block)


def step(objective: Objective, size: int) -> Callable[[], Tensor]:
    """Forward and backward on a fixed batch."""
    image = torch.rand(1, 1, size, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"image": image, "seed": torch.tensor([0])}

    def run() -> Tensor:
        objective.zero_grad(set_to_none=True)
        loss = objective(batch).loss
        loss.backward()
        return loss

    return run


def rows() -> Iterator[Row]:
    vit = {"patch_size": (8, 8, 8), "position_grid": (8, 8, 8)}
    yield race(
        "MAE step, ViT-S/8 at 64^3, 75 % hidden",
        "nothing hidden",
        step(Unmasked(ViT("S", **vit)), 64),
        step(MAE(ViT("S", **vit)), 64),
    )
    for preset, size in (("XS", 64), ("S", 64), ("S", 96)):
        yield race(
            f"S3D step, ResEnc-{preset} at {size}^3, 75 % of 16^3 hidden",
            "dense network (MAE)",
            step(MAE(ResEnc(preset), mask_block=(16, 16, 16)), size),
            step(SparK(ResEnc(preset), 0.75, (16, 16, 16)), size),
            rounds=3,
        )
