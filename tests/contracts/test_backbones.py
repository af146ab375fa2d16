"""What every backbone promises, asked of each example in tests/tiny.py."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from medpretrain3d import backbones
from medpretrain3d.backbones import Backbone, TokenBackbone
from tests.half_precision import SQUEEZE_AND_EXCITE, in_both
from tests.tiny import TINY_BACKBONES, tiny_backbone

EVERY_NAME = list(TINY_BACKBONES)


def image(name: str, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, channels, *TINY_BACKBONES[name].shape, generator=generator)


def loss(features: list[Tensor]) -> Tensor:
    return torch.stack([feature.float().square().mean() for feature in features]).sum()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_every_exported_backbone_has_a_tiny_example():
    exported = {getattr(backbones, name) for name in backbones.__all__}
    classes = {cls for cls in exported if isinstance(cls, type) and issubclass(cls, Backbone)}
    assert classes - {Backbone, TokenBackbone} <= {type(tiny_backbone(name)) for name in EVERY_NAME}


@pytest.mark.parametrize("name", EVERY_NAME)
def test_levels_and_strides_on_an_anisotropic_input_of_two_channels(name):
    backbone = tiny_backbone(name, in_channels=2).eval()
    x = image(name, channels=2)
    with torch.no_grad():
        features = backbone(x)
    strides = [level.stride for level in backbone.levels]
    assert strides == sorted(strides)
    assert TINY_BACKBONES[name].has_anisotropic_strides in (None, any(d != h for d, h, _ in strides))
    for feature, level in zip(features, backbone.levels, strict=True):
        size = tuple(edge // step for edge, step in zip(x.shape[2:], level.stride, strict=True))
        assert feature.shape == (1, level.channels, *size)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(name):
    plain, saving = tiny_backbone(name), tiny_backbone(name, checkpointing=True)
    assert saving.encoder.checkpointing
    for backbone in (plain, saving):
        loss(backbone(image(name))).backward()
    assert gradients(plain).keys() == dict(plain.named_parameters()).keys()  # DDP needs no search for unused ones
    for parameter, gradient in gradients(saving).items():
        torch.testing.assert_close(gradient, gradients(plain)[parameter], msg=parameter)
    for buffer, value in saving.named_buffers():
        torch.testing.assert_close(value, plain.get_buffer(buffer), msg=buffer)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_bf16_agrees_with_fp32_and_statistics_of_norms_stay_in_it(name):
    backbone = tiny_backbone(name).eval()
    exact, rough = in_both(lambda: backbone(image(name)), SQUEEZE_AND_EXCITE)
    for a, b in zip(exact, rough, strict=True):
        # bf16 keeps 8 bits: 0.4 % per operation; norms over few voxels, deep in the network, amplify it most.
        error = (a - b.float()).square().mean().sqrt() / a.std()
        assert error < 0.05, f"{error:.3f} of the standard deviation of {tuple(a.shape)}"


@pytest.mark.parametrize("name", EVERY_NAME)
def test_state_dict_round_trip(name):
    backbone = tiny_backbone(name).eval()
    torch.manual_seed(1)
    twin = TINY_BACKBONES[name].make().eval()
    with torch.no_grad():
        expected = backbone(image(name))
        assert not torch.equal(twin(image(name))[-1], expected[-1])
        twin.load_state_dict(backbone.state_dict())
        for a, b in zip(twin(image(name)), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_depth_groups_hold_every_parameter_once_from_input_to_output(name):
    backbone = tiny_backbone(name)
    groups = backbone.depth_groups()
    flat = [id(parameter) for group in groups for parameter in group]
    assert len(flat) == len(set(flat))
    assert set(flat) == {id(parameter) for parameter in backbone.parameters()}
    assert len(groups) > 1
    # The image's first linear map is in the first group, so freezing from the front freezes the input.
    first = {id(parameter) for parameter in groups[0]}
    assert any(id(p) in first and p.ndim == 5 and p.shape[1] == 1 for p in backbone.parameters())


@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_encoder_can_be_exported(name):
    # In a process of its own: torch keeps a copy of the class for ever, and a recipe would then find two of its name.
    mp.start_processes(export, (name,), nprocs=1, start_method="fork")


def export(_: int, name: str) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    backbone = tiny_backbone(name).eval()
    with torch.no_grad():
        program = torch.export.export(backbone, (image(name),))
        for a, b in zip(program.module()(image(name)), backbone(image(name)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_backbone_says_whose_it_is(name):
    backbone = tiny_backbone(name)
    assert isinstance(backbone, Backbone)
    assert any(source in backbone.citation for source in ("arXiv:", "doi:"))
