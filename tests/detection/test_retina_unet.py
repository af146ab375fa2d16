from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import AnchorGrid, RetinaUNet
from medpretrain3d.errors import UserError

SHAPE = (16, 16, 24)


def make(**options) -> RetinaUNet:
    torch.manual_seed(0)
    return RetinaUNet(ResEnc("XXS", **options), 2, AnchorGrid([[(6, 6, 6)], [(12, 12, 12)]]), fpn_channels=32)


def target(mask):
    return Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long), mask)


def test_segmentation_is_a_distribution_over_background_and_classes():
    probabilities = make().segment(torch.randn(2, 1, *SHAPE))
    assert probabilities.shape == (2, 3, *SHAPE)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, *SHAPE))


def test_the_pyramid_narrows_towards_full_resolution():
    model = make()
    assert [lateral.out_channels for lateral in model.fpn.lateral] == [8, 16, 32, 32]
    assert sorted(model.fpn.output) == ["0", "2", "3"]  # level 1 is only passed through


@pytest.mark.parametrize("second_stride", [(2, 2, 2), (1, 2, 2)])
def test_the_branch_as_one_step_is_the_branch_step_by_step(second_stride):
    model = make(strides=[(1, 1, 1), second_stride, (2, 2, 2), (2, 2, 2)])
    image = torch.randn(1, 1, *SHAPE)
    mask_logits, _ = model.branches(image)
    one_by_one = model.segmenter(model.fpn(model.backbone(image))[0])
    torch.testing.assert_close(mask_logits, one_by_one)
    modules = model.segmenter, model.fpn.output["0"], model.fpn.lateral[0], model.fpn.upsample[0]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    gradients = [torch.autograd.grad(logits.square().sum(), parameters) for logits in (mask_logits, one_by_one)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("first_level", [0, 2])
def test_detection_does_not_pay_for_segmentation(first_level):
    torch.manual_seed(0)
    model = RetinaUNet(ResEnc("XXS"), 2, AnchorGrid([[(6, 6, 6)]]), fpn_channels=16, first_level=first_level).eval()
    image = torch.randn(1, 1, *SHAPE)
    before = model.detect(image)[0]
    finer = [model.segmenter, *model.fpn.lateral[:first_level], *model.fpn.upsample[:first_level]]
    for module in finer:
        nn.init.constant_(module.weight, torch.nan)
    assert model.detect(image)[0].boxes.equal(before.boxes)
    assert model.segment(image).isnan().all()


def test_mask_losses_of_an_undecided_network():
    model = make()
    nn.init.zeros_(model.segmenter.weight)
    nn.init.zeros_(model.segmenter.bias)
    mask = torch.zeros(SHAPE, dtype=torch.long)
    mask[:8] = 1
    mask[8:] = 2
    losses = model.losses(torch.randn(1, 1, *SHAPE), [target(mask)])
    assert losses["cross_entropy"].item() == pytest.approx(0.5 * math.log(3))
    # Each class: overlap 1/3 * 1/2, sum of predictions 1/3, sum of truth 1/2, of the volume.
    assert losses["dice"].item() == pytest.approx(0.5 * (1 - 2 * (1 / 6) / (1 / 3 + 1 / 2)), rel=1e-4)


def test_the_foreground_alone_can_be_segmented():
    torch.manual_seed(0)
    model = RetinaUNet(ResEnc("XXS"), 2, AnchorGrid([[(6, 6, 6)]]), segmentation="foreground", fpn_channels=16)
    nn.init.zeros_(model.segmenter.weight)
    nn.init.zeros_(model.segmenter.bias)
    mask = torch.full(SHAPE, 2)
    mask[:8] = 0
    assert model.segment(torch.randn(1, 1, *SHAPE)).shape == (1, 2, *SHAPE)
    losses = model.losses(torch.randn(1, 1, *SHAPE), [target(mask)])
    assert losses["cross_entropy"].item() == pytest.approx(0.5 * math.log(2))


def test_images_without_a_mask_do_not_count():
    model = make().eval()
    image = torch.randn(2, 1, *SHAPE)
    mask = torch.randint(0, 3, SHAPE, generator=torch.Generator().manual_seed(0))
    mixed = model.losses(image, [target(None), target(mask)])
    alone = model.losses(image[1:], [target(mask)])
    none = model.losses(image, [target(None), target(None)])
    for name in ("cross_entropy", "dice"):
        assert mixed[name].item() == pytest.approx(alone[name].item(), rel=1e-4)
        assert none[name].item() == 0


def test_a_mask_of_another_crop_is_refused():
    with pytest.raises(UserError, match=r"mask of shape \(8, 8, 8\)"):
        make().losses(torch.randn(1, 1, *SHAPE), [target(torch.zeros(8, 8, 8, dtype=torch.long))])


def test_a_backbone_without_full_resolution_is_refused():
    with pytest.raises(UserError, match="use RetinaNet"):
        make(strides=[(2, 2, 2)] * 4)
