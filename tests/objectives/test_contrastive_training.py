"""Every objective that compares views learns on every family of backbones."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_backbone
from tests.tiny_views import CONTRASTIVE, tiny_views

PATCHES = {
    "ResEnc anisotropic": (8, 16, 16),
    "PlainConv": (16, 8, 16),
    "GenesisUNet": (16, 8, 16),
    "SegResNet": (16, 8, 16),
    "ResNet3D bottlenecks, dilated": (16, 8, 16),
    "MedNeXt anisotropic, kernel 5": (8, 16, 32),
    "ViT anisotropic": (8, 16, 24),
    "Primus": (16, 16, 24),
    "SwinUNETR": (32, 32, 32),
}


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("cls", CONTRASTIVE)
def test_thirty_steps_lower_the_loss(cls, name):
    objective = CONTRASTIVE[cls](tiny_backbone(name))
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    batch = tiny_views(cls, PATCHES[name])
    losses = []
    for _ in range(30):
        loss = objective(batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
