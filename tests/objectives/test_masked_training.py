"""Every masked objective learns on every backbone it names."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.objectives.masked import MaskedReconstruction
from tests.tiny_objectives import PAIRS, tiny_batch, tiny_objective
from tests.tiny_views import CONTRASTIVE

# A step of the inflated network takes thirty times as long as the others; the contract test covers its gradients.
TRAINED = [
    (cls, name)
    for cls, name in PAIRS
    if issubclass(cls, MaskedReconstruction) and cls not in CONTRASTIVE and name != "InflatedCNN"
]


@pytest.mark.parametrize(("cls", "name"), TRAINED, ids=[f"{cls.__name__} {name}" for cls, name in TRAINED])
def test_thirty_steps_lower_the_loss(cls, name):
    objective = tiny_objective(cls, name)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        loss = objective(tiny_batch(name, first_seed=2 * step)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
