from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from medpretrain3d.engine.optimizer import OptimConfig, configure

OPTIMIZERS = [
    OptimConfig(name="adamw", lr=1e-2, weight_decay=1e-2, warmup_steps=0),
    OptimConfig(name="adamw", lr=1e-2, amsgrad=True, warmup_steps=0),
    OptimConfig(name="sgd", lr=1e-2, warmup_steps=0),
    OptimConfig(name="sgd", lr=1e-2, momentum=0.0, warmup_steps=0),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 3, 2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(24, 2))


def optimizer_of(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = configure(model, config, num_steps=2000)["optimizer"]
    return optimizer


def unfused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same, as it was before it was fused."""
    groups = [{**group, "params": list(group["params"]), "fused": None} for group in optimizer.param_groups]
    result = type(optimizer)(groups)
    assert not any(group["fused"] for group in result.param_groups)
    return result


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    for step in steps:
        image = torch.randn(4, 2, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("config", OPTIMIZERS, ids=str)
def test_one_kernel_moves_the_weights_as_many_do(config):
    ours, theirs = network(), network()
    fused, plain = optimizer_of(ours, config), unfused(optimizer_of(theirs, config))
    assert all(group["fused"] for group in fused.param_groups)
    torch.testing.assert_close(train(ours, fused, range(5)), train(theirs, plain, range(5)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=str)
def test_a_checkpoint_of_an_optimizer_that_was_not_fused_goes_on_fused(config):
    before = network()
    plain = unfused(optimizer_of(before, config))
    train(before, plain, range(3))
    model = copy.deepcopy(before)
    fused = optimizer_of(model, config)
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert all(group["fused"] for group in fused.param_groups)
    expected = train(before, plain, range(3, 6))
    torch.testing.assert_close(train(model, fused, range(3, 6)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", OPTIMIZERS, ids=str)
def test_averages_are_laid_out_as_their_weights_whatever_the_checkpoint_had(config):
    before = network()
    optimizer = optimizer_of(before, config)
    train(before, optimizer, range(3))
    model = copy.deepcopy(before).to(memory_format=torch.channels_last_3d)
    continued = optimizer_of(model, config)
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = train(before, optimizer, range(3, 6))
    torch.testing.assert_close(train(model, continued, range(3, 6)), expected, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_in_mixed_precision_too():
    model = network()
    optimizer = optimizer_of(model, OPTIMIZERS[0])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 0.5)
    norm = torch.stack([parameter.grad.square().sum() for parameter in model.parameters()]).sum().sqrt()
    assert norm.item() == pytest.approx(0.5, rel=1e-3)
