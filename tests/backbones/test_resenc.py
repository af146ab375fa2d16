from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.backbones.norm import instance_norm
from medpretrain3d.backbones.resenc import PRESETS
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.errors import UserError


def test_l_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert ResEnc("L").num_parameters() == 90_296_576


@pytest.mark.parametrize("preset", PRESETS)
def test_levels_double_their_stride_and_follow_the_preset(preset):
    with torch.device("meta"):
        levels = ResEnc(preset).levels
    assert [level.stride for level in levels] == [(2**i,) * 3 for i in range(len(levels))]
    assert tuple(level.channels for level in levels) == PRESETS[preset].channels


@pytest.mark.parametrize("preset", ["XXS", "XS"])
def test_features_have_the_shapes_that_levels_promise(preset):
    backbone = ResEnc(preset, in_channels=2)
    features = backbone(torch.randn(1, 2, 32, 16, 16))
    assert len(features) == len(backbone.levels)
    for feature, level in zip(features, backbone.levels, strict=True):
        assert feature.shape == (1, level.channels, 32 // level.stride[0], 16 // level.stride[1], 16 // level.stride[2])


def test_anisotropic_strides_and_kernels():
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
    kernels = [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    backbone = ResEnc("XXS", strides=strides, kernel_sizes=kernels)
    assert backbone.levels[-1].stride == (4, 8, 8)
    assert backbone(torch.randn(1, 1, 8, 16, 16))[-1].shape[2:] == (2, 2, 2)


def test_every_parameter_gets_a_gradient():
    backbone = ResEnc("XXS")
    sum(feature.square().mean() for feature in backbone(torch.randn(1, 1, 16, 16, 16))).backward()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.grad is None]


def test_group_norm_with_one_channel_per_group_is_instance_norm():
    x = torch.randn(2, 3, 4, 5, 6)
    expected = torch.nn.functional.instance_norm(x, eps=1e-5)
    torch.testing.assert_close(instance_norm(3)(x), expected)


def test_config_builds_the_same_network():
    backbone = ResEnc("XXS", in_channels=2)
    twin = from_config(to_config(backbone))
    twin.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 2, 16, 16, 16)
    for a, b in zip(backbone(x), twin(x), strict=True):
        assert torch.equal(a, b)


def test_wrong_sizes_are_named():
    backbone = ResEnc("XXS")
    with pytest.raises(UserError, match=r"H is 20, must be a multiple of the coarsest stride 8; use 16 or 24"):
        backbone(torch.zeros(1, 1, 16, 20, 16))
    with pytest.raises(UserError, match=r"wanted \(B, 1, D, H, W\)"):
        backbone(torch.zeros(1, 2, 16, 16, 16))
    with pytest.raises(UserError, match="wanted one of XXS"):
        ResEnc("huge")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"got 1 strides, wanted one per stage \(4\)"):
        ResEnc("XXS", strides=[(1, 1, 1)])


def test_bf16_autocast_agrees_with_fp32_on_a_tiny_input():
    torch.manual_seed(0)
    backbone = ResEnc("XXS")
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        exact = backbone(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(x)
    for a, b in zip(exact[:2], rough[:2], strict=True):
        # bf16 keeps 8 bits: 0.4 % per operation, a few operations deep.
        assert (a - b.float()).abs().mean() < 0.02 * a.abs().mean() + 0.01
