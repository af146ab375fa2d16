"""Compiled parts compute what they did, and files do not know of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medpretrain3d.backbones.tokens import DropPath
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import DeformableDETR, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import compile_parts, network_parts
from medpretrain3d.objectives import MAE, ConsistentViews, MultiTalent, SimMIM, SparK
from medpretrain3d.randomness import sample_seeds
from tests.tiny import TINY_BACKBONES, tiny_backbone
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, refusal, tiny_objective

# One of each class, the quickest to trace.
BACKBONES = [name for name in TINY_BACKBONES if " " not in name and name != "InflatedCNN"] + ["InflatedCNN anisotropic"]
SLOW = ["SwinUNETR", "InflatedCNN anisotropic", DeformableDETR, ConsistentViews]


def backends(cases: Iterable[Any]) -> list[Any]:
    """Return cases with "aot_eager", which traces with gradients, and the slowest with "eager", which does without."""
    pairs = [(case, "eager" if case in SLOW else "aot_eager") for case in cases]
    return [pytest.param(*pair, id=f"{getattr(pair[0], '__name__', pair[0])}-{pair[1]}") for pair in pairs]


@pytest.fixture(autouse=True)
def _nothing_compiled():
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def detector_batch() -> tuple[Tensor, list[Targets]]:
    image = torch.randn(1, 1, 24, 16, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(24, 16, 32, dtype=torch.long)
    mask[4:10, 6:14, 8:15] = 2
    return image, [Targets(torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1]), mask, seed=torch.tensor(3))]


def assert_same(plain: nn.Module, compiled: nn.Module, loss: Any) -> None:
    losses = [loss(plain), loss(compiled)]
    torch.testing.assert_close(losses[1], losses[0])
    for value in losses:
        value.backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None, name
        else:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=partial("{}: {}".format, name))
    assert plain.state_dict().keys() == compiled.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), backends(BACKBONES))
def test_backbones(name, backend):
    image = torch.randn(2, 1, *TINY_BACKBONES[name].patch, generator=torch.Generator().manual_seed(1))

    def loss(backbone: nn.Module) -> Tensor:
        with sample_seeds(torch.tensor([5, 6])):
            return torch.stack([features.square().mean() for features in backbone(image)]).sum()

    plain, compiled = tiny_backbone(name).train(), tiny_backbone(name).train()
    # MONAI's masks of windows take a second for each stage and backend.
    parts = {"first stage": compiled.layers1[0]} if name == "SwinUNETR" else {"backbone": compiled}
    compile_parts(parts, backend)
    assert_same(plain, compiled, loss)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "backend"), backends(TINY_OBJECTIVES))
def test_objectives(cls, backend):
    name = default_backbone(cls, "PlainConv")  # the quickest to trace
    batch = TINY_OBJECTIVES[cls].batch(name, 5)
    plain, compiled = (tiny_objective(cls, name).train() for _ in range(2))
    parts = compiled.compiled_parts()
    parts.pop("backbone", None)  # above
    compile_parts(parts, backend)
    assert_same(plain, compiled, lambda objective: objective(batch).loss)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "backend"), backends(TINY_DETECTORS))
def test_detectors(cls, backend):
    image, targets = detector_batch()

    def loss(detector: Any) -> Tensor:
        with sample_seeds(torch.tensor([3])):
            return torch.stack(list(detector.losses(image, targets).values())).sum()

    plain, compiled = tiny_detector(cls).train(), tiny_detector(cls).train()
    parts = compiled.compiled_parts()
    del parts["backbone"]  # above
    compile_parts(parts, backend)
    assert_same(plain, compiled, loss)


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_parts_of_objectives_are_called(cls):
    for name in ("ResEnc", "ViT", "Primus", "SwinUNETR-V2 anisotropic"):  # those of tokens may be called in two halves
        if not refusal(cls, name):
            objective = tiny_objective(cls, name).train()
            assert_called(objective.compiled_parts(), partial(objective, TINY_OBJECTIVES[cls].batch(name, 5)))


@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_parts_of_detectors_are_called(cls):
    detector = tiny_detector(cls).train()
    with sample_seeds(torch.tensor([3])):
        assert_called(detector.compiled_parts(), lambda: detector.losses(*detector_batch()))


def assert_called(parts: dict[str, nn.Module], step: Callable[[], Any]) -> None:
    """What is compiled are calls: a part whose weights are used in another way would be named and not compiled."""
    called: set[str] = set()
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: called.add(name))
    step()
    assert called == parts.keys()


def test_no_part_is_one_too_many():
    """More of them than graphs that PyTorch compiles for one function."""
    parts = {str(depth): nn.Sequential(*[nn.Linear(2, 2) for _ in range(depth)]) for depth in range(1, 13)}
    compile_parts(parts, "eager")
    torch._dynamo.utils.counters.clear()
    for part in parts.values():
        part(torch.ones(1, 2))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(parts)


def test_a_mode_that_there_is_not_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="got 'fast', wanted one of default, reduce-overhead, max-autotune"):
        compile_parts({}, "fast")


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
    network.encoder = nn.Module()  # holds parts, and has no forward
    network.encoder.norm = nn.LayerNorm(2)
    assert list(network_parts(network)) == ["blocks.0", "blocks.2", "head", "encoder.norm"]


def test_transformers_are_compiled_block_by_block_where_tokens_are_hidden():
    assert "backbone" not in MAE(tiny_backbone("ViT")).compiled_parts()
    assert "backbone.blocks.0" in MAE(tiny_backbone("ViT")).compiled_parts()
    assert "backbone.blocks.0" in SimMIM(tiny_backbone("ViT")).compiled_parts()
    assert "backbone" in MAE(tiny_backbone("ResEnc")).compiled_parts()
    assert "backbone.eva.blocks.0" in MAE(tiny_backbone("Primus")).compiled_parts()


def test_what_is_left_out():
    assert list(SparK(tiny_backbone("ResEnc")).compiled_parts()) == ["decoder"]
    assert list(tiny_objective(MultiTalent).compiled_parts()) == ["backbone", "decoder"]
    assert list(tiny_detector(RetinaUNet).compiled_parts()) == ["backbone", "classification_head", "box_head"]


def test_a_part_is_compiled_and_a_copy_of_it_is_not():
    layer = nn.Linear(2, 2)
    compile_parts({"layer": layer}, "eager")
    assert layer._compiled_call_impl is not None
    assert copy.deepcopy(layer)._compiled_call_impl is None
    assert list(layer.state_dict()) == ["weight", "bias"]
    torch.testing.assert_close(
        layer(torch.ones(1, 2)), nn.functional.linear(torch.ones(1, 2), layer.weight, layer.bias)
    )
