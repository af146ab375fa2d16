from __future__ import annotations

import pytest
import torch
from torch import nn

from medpretrain3d.engine.optimiser import OptimConfig, configure, lr_factor
from medpretrain3d.errors import UserError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def test_poly_with_warm_up_by_hand():
    config = OptimConfig(warmup_steps=4)
    assert [lr_factor(step, config, 14) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_factor(4, config, 14) == 1.0
    assert lr_factor(9, config, 14) == pytest.approx(0.5**0.9)
    assert lr_factor(14, config, 14) == 0.0


def test_cosine_by_hand():
    config = OptimConfig(schedule="cosine")
    assert [lr_factor(step, config, 4) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])


def test_groups_scale_the_backbone_and_spare_biases_from_decay():
    optimiser = configure(Model(), OptimConfig(lr=0.1, weight_decay=0.5, backbone_lr_scale=0.1), 10)["optimizer"]
    rows = sorted((round(group["initial_lr"], 6), group["weight_decay"]) for group in optimiser.param_groups)
    assert rows == [(0.01, 0.0), (0.01, 0.5), (0.1, 0.0), (0.1, 0.5)]


def test_one_plain_sgd_step_by_hand():
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    model = nn.ParameterList([parameter])
    settings = OptimConfig(lr=0.5, momentum=0.9, weight_decay=0.0)
    optimiser = configure(model, settings, 10)["optimizer"]
    parameter.grad = torch.tensor([[2.0]])
    optimiser.step()
    # Nesterov: the first step moves by lr * (g + momentum * g).
    assert parameter.item() == pytest.approx(1 - 0.5 * (2 + 0.9 * 2))


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"warmup_steps 10 and trainer.max_steps 10"):
        configure(Model(), OptimConfig(warmup_steps=10), 10)
