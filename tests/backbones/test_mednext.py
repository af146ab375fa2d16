from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import MedNeXt
from medpretrain3d.backbones.mednext import PRESETS
from medpretrain3d.errors import UserError


def block(c: int, out: int, expansion: int, kernel: int, has_stride: bool) -> int:
    """Parameters of a block: depthwise, norm, expansion, compression, and the shortcut of a step down."""
    own = c * (kernel**3 + 1) + 2 * c + expansion * c * (c + 1) + out * (expansion * c + 1)
    return own + (out * (c + 1) if has_stride else 0)


@pytest.mark.parametrize("preset", ["S", "B", "M", "L"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_parameters_follow_the_formula(preset, kernel):
    with torch.device("meta"):
        backbone = MedNeXt(preset, kernel_size=kernel)
    size = PRESETS[preset]
    total = 2 * size.width
    for index, (num_blocks, expansion) in enumerate(zip(size.blocks, size.expansion, strict=True)):
        c = size.width * 2**index
        total += num_blocks * block(c, c, expansion, kernel, False)
        total += block(c // 2, c, expansion, kernel, True) if index else 0
    assert backbone.num_parameters() == total


def test_names_are_those_of_the_published_code():
    names = set(MedNeXt("XXS").state_dict())
    for name in ("stem.weight", "enc_block_0.0.conv1.weight", "down_3.res_conv.bias", "bottleneck.0.norm.weight"):
        assert name in names


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="kernel_size 4, wanted an odd one"):
        MedNeXt("S", kernel_size=4)
    with pytest.raises(UserError, match="got 1 strides"):
        MedNeXt("S", strides=[(1, 1, 1)])
    with pytest.raises(UserError, match="wanted one of XXS"):
        MedNeXt("huge")  # type: ignore[arg-type]
