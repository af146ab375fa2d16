from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet as MonaiSegResNet

from medpretrain3d.backbones import GenesisUNet, SegResNet
from medpretrain3d.errors import UserError


def test_segresnet_has_the_features_of_monais():
    theirs = MonaiSegResNet(blocks_down=[1, 2, 2, 4], init_filters=16, in_channels=1).eval()
    ours = SegResNet().eval()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ours.state_dict()})
    x = torch.randn(1, 1, 16, 8, 24)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs.encode(x)[1], strict=True):
            torch.testing.assert_close(a, b)


def test_genesis_unet_has_64_to_512_channels_from_full_resolution_on():
    with torch.device("meta"):
        unet = GenesisUNet()
    assert [(level.channels, level.stride[0]) for level in unet.levels] == [(64, 1), (128, 2), (256, 4), (512, 8)]
    # Per convolution 27 a b + b, and 2 b of its norm.
    pairs = [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    assert unet.num_parameters() == sum(27 * a * b + 3 * b for a, b in pairs)


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="width 12, wanted a multiple of 8"):
        SegResNet(12)
    with pytest.raises(UserError, match="got 1 strides"):
        SegResNet(strides=[(1, 1, 1)])
    with pytest.raises(UserError, match="got 1 strides"):
        GenesisUNet(strides=[(1, 1, 1)])
