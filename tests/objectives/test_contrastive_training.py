"""Every objective that compares views learns on every family of backbones."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_objectives import ENCODERS, TINY_OBJECTIVES, tiny_objective
from tests.tiny_views import CONTRASTIVE

# One of each family; the inflated network and Swin take tens of times as long: their gradients are a contract test.
TRAINED = [name for name in ENCODERS if name not in ("ResEnc", "ViT", "InflatedCNN", "SwinUNETR")]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("cls", CONTRASTIVE)
def test_thirty_steps_lower_the_loss(cls, name):
    objective = tiny_objective(cls, name)
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    batch = TINY_OBJECTIVES[cls].batch(name)
    losses = []
    for _ in range(30):
        loss = objective(batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
