from __future__ import annotations

import torch
from torch import nn

from medpretrain3d.backbones.base import Level
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import BoxHead, ClassificationHead


def test_pyramid_shapes_with_anisotropic_strides():
    levels = [Level(4, (1, 1, 1)), Level(6, (1, 2, 2)), Level(8, (2, 4, 8))]
    fpn = FPN(levels, channels=[2, 4, 8], outputs=[0, 2])
    features = [torch.randn(1, c, *shape) for c, shape in ((4, (4, 8, 16)), (6, (4, 4, 8)), (8, (2, 2, 2)))]
    assert [tuple(level.shape) for level in fpn(features)] == [(1, 2, 4, 8, 16), (1, 8, 2, 2, 2)]


def test_coarse_features_reach_fine_levels_and_not_back():
    levels = [Level(2, (1, 1, 1)), Level(2, (2, 2, 2))]
    torch.manual_seed(0)
    fpn = FPN(levels, channels=[2, 2], outputs=[0, 1])
    fine, coarse = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 2, 2, 2)
    before = fpn([fine, coarse])
    after_coarse, after_fine = fpn([fine, coarse + 1]), fpn([fine + 1, coarse])
    assert not before[0].equal(after_coarse[0])
    assert before[1].equal(after_fine[1])


def test_heads_order_their_values_as_the_anchors():
    # A head that copies channel 0 must give anchor n = cell * anchors_per_cell + a the value of its cell.
    head = ClassificationHead(channels=1, anchors_per_cell=2, num_classes=3, num_convs=0)
    head.output = nn.Conv3d(1, 6, 1, bias=False)
    head.output.weight.data = torch.arange(1.0, 7).reshape(6, 1, 1, 1, 1)
    level = torch.arange(1.0, 9).reshape(1, 1, 2, 2, 2)
    logits = head([level])
    assert logits.shape == (1, 16, 3)
    assert logits[0, 0].tolist() == [1, 2, 3]  # cell 0, anchor 0, three classes
    assert logits[0, 1].tolist() == [4, 5, 6]  # cell 0, anchor 1
    assert logits[0, 2 * 5].tolist() == [6, 12, 18]  # cell 5 = (1, 0, 1) holds 6


def test_box_scale_is_one_number_per_level():
    torch.manual_seed(0)
    head = BoxHead(channels=16, anchors_per_cell=1, num_levels=2, num_convs=1)
    level = torch.randn(1, 16, 2, 2, 2)
    head.scale.data = torch.tensor([1.0, 3.0])
    deltas = head([level, level])
    torch.testing.assert_close(deltas[:, 8:], 3 * deltas[:, :8])
    assert sum(p.numel() for p in head.scale[None]) == 2


def test_groups_of_sixteen_channels():
    groups = [module.num_groups for module in BoxHead(32, 1, 1, 2).modules() if isinstance(module, nn.GroupNorm)]
    assert groups == [2, 2]
    assert [m.num_groups for m in BoxHead(8, 1, 1, 1).modules() if isinstance(m, nn.GroupNorm)] == [1]
