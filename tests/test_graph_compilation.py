"""Compiled parts compute what they did, and files do not know of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medpretrain3d.backbones.tokens import DropPath
from medpretrain3d.boxes import Targets
from medpretrain3d.graph_compilation import compile_parts, network_parts
from medpretrain3d.objectives import MAE, SimMIM, SparK
from medpretrain3d.randomness import sample_seeds
from tests.tiny import TINY_BACKBONES, tiny_backbone
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, tiny_objective

BACKENDS = ["eager", "aot_eager"]


@pytest.fixture(autouse=True)
def _nothing_compiled():
    yield
    torch._dynamo.reset()


def assert_same(plain: nn.Module, compiled: nn.Module, loss: Any) -> None:
    losses = [loss(plain), loss(compiled)]
    torch.testing.assert_close(losses[1], losses[0])
    for value in losses:
        value.backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None, name
        else:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
    assert plain.state_dict().keys() == compiled.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_backbones(name, backend):
    image = torch.randn(2, 1, *TINY_BACKBONES[name].patch, generator=torch.Generator().manual_seed(1))

    def loss(backbone: nn.Module) -> Tensor:
        with sample_seeds(torch.tensor([5, 6])):
            return torch.stack([features.square().mean() for features in backbone(image)]).sum()

    plain, compiled = tiny_backbone(name).train(), tiny_backbone(name).train()
    compile_parts({"backbone": compiled}, backend)
    assert_same(plain, compiled, loss)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_objectives(cls, backend):
    name = default_backbone(cls)
    batch = TINY_OBJECTIVES[cls].batch(name, 5)
    plain, compiled = (tiny_objective(cls, name).train() for _ in range(2))
    compile_parts(compiled.compiled_parts(), backend)
    assert_same(plain, compiled, lambda objective: objective(batch).loss)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_detectors(cls, backend):
    image = torch.randn(1, 1, 24, 16, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(24, 16, 32, dtype=torch.long)
    mask[4:10, 6:14, 8:15] = 2
    target = Targets(torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1]), mask, seed=torch.tensor(3))

    def loss(detector: Any) -> Tensor:
        with sample_seeds(torch.tensor([3])):
            return torch.stack(list(detector.losses(image, [target]).values())).sum()

    plain, compiled = tiny_detector(cls).train(), tiny_detector(cls).train()
    compile_parts(compiled.compiled_parts(), backend)
    assert_same(plain, compiled, loss)


def test_what_is_drawn_inside_is_drawn_as_before():
    """Another number at every draw of every step, in a graph as outside of one."""
    tokens = torch.randn(4, 3, 2)
    paths = nn.Sequential(DropPath(0.5), DropPath(0.5))
    found = []
    for backend in (None, "eager"):
        if backend:
            compile_parts({"paths": paths}, backend)
        for seeds in (torch.arange(4), torch.arange(4, 8)):
            with sample_seeds(seeds):
                found.append(torch.stack([paths(tokens), paths(tokens)]))
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[2], found[3])


def test_parts_are_children_with_weights():
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)])
    network.head, network.act = nn.Linear(2, 1), nn.ReLU()
    assert list(network_parts(network)) == ["blocks.0", "blocks.2", "head"]


def test_transformers_are_compiled_block_by_block_where_tokens_are_hidden():
    assert "backbone" not in MAE(tiny_backbone("ViT")).compiled_parts()
    assert "backbone.blocks.0" in MAE(tiny_backbone("ViT")).compiled_parts()
    assert "backbone.blocks.0" in SimMIM(tiny_backbone("ViT")).compiled_parts()
    assert "backbone" in MAE(tiny_backbone("ResEnc")).compiled_parts()
    assert list(SparK(tiny_backbone("ResEnc")).compiled_parts()) == ["decoder"]


def test_a_part_is_compiled_and_a_copy_of_it_is_not():
    layer = nn.Linear(2, 2)
    compile_parts({"layer": layer}, "eager")
    assert layer._compiled_call_impl is not None
    assert copy.deepcopy(layer)._compiled_call_impl is None
    assert list(layer.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(
        layer(torch.ones(1, 2)), nn.functional.linear(torch.ones(1, 2), layer.weight, layer.bias)
    )
