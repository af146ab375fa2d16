from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from medpretrain3d.backbones import PlainConv
from medpretrain3d.errors import UserError


def test_nndetections_encoder_is_counted_by_hand():
    channels = (1, 32, 64, 128, 256, 320, 320)
    convs = [pair for before, after in pairwise(channels) for pair in ((before, after), (after, after))]
    expected = sum(27 * a * b + b + 2 * b for a, b in convs)  # weights, bias, scale and shift of the norm
    with torch.device("meta"):
        backbone = PlainConv()
    assert backbone.num_parameters() == expected
    assert [level.stride for level in backbone.levels] == [(2**i,) * 3 for i in range(6)]


def test_relu_by_default_and_leaky_relu_by_argument():
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert (PlainConv("XXS")(image)[0] >= 0).all()
        torch.manual_seed(0)
        leaky = PlainConv("XXS", negative_slope=0.01)(image)[0]
        torch.manual_seed(0)
        plain = PlainConv("XXS")(image)[0]
    assert (leaky < 0).any()
    assert leaky.min() > -0.01 * 10  # a hundredth of what instance norm gives at most
    assert not torch.equal(leaky, plain)


def test_sizes_of_ones_own():
    backbone = PlainConv(None, channels=(4, 8), convs=(1, 3))
    assert [len(stage[0].convs) for stage in backbone.stages] == [1, 3]
    with pytest.raises(UserError, match="set preset to null"):
        PlainConv("XXS", channels=(4, 8))
    with pytest.raises(UserError, match="wanted one number of channels and one of blocks per stage"):
        PlainConv(None, channels=(4, 8), convs=(1,))
