"""Supervised objectives learn on every family of backbones."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.objectives import CaseClassification, MultiTalent
from tests.tiny_objectives import case_labelled_batch, labelled_batch, tiny_objective

FAMILIES = ("PlainConv", "ResNet3D bottlenecks, dilated", "MedNeXt anisotropic, kernel 5", "SwinUNETR", "ViT", "Primus")
BATCH = {MultiTalent: labelled_batch, CaseClassification: case_labelled_batch}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("cls", BATCH)
def test_thirty_steps_lower_the_loss(cls, name):
    objective = tiny_objective(cls, name)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        loss = objective(BATCH[cls](name, first_seed=2 * step)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
