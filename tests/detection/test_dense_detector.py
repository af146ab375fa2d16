"""A detector of one's own, put together out of parts."""

from __future__ import annotations

import doctest

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets, box_iou
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import (
    AnchorGrid,
    BoxCoder,
    Detector,
    FocalLoss,
    GIoULoss,
    L1Loss,
    Matcher,
    PostProcessing,
    RetinaNet,
    SmoothL1Loss,
)
from medpretrain3d.detection.box_losses import BOX_LOSSES, BoxLoss
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.detection.fpn import FPN
from medpretrain3d.detection.heads import ClassificationHead, Head
from medpretrain3d.errors import UserError
from medpretrain3d.registry import known_classes
from tests.tiny_detectors import tiny_detector


class NearestAnchor(Matcher):
    """Gives each object the anchor of the highest IoU alone."""

    def __call__(self, targets, anchors, anchors_per_level, anchors_per_location):
        matched = torch.full((len(anchors),), -1)
        if len(targets):
            matched[box_iou(anchors, targets).argmax(dim=0)] = torch.arange(len(targets))
        return matched


class QualityHead(Head):
    """Six deltas and the logit of the box's quality, from one convolution: eight values, one of them of no use."""

    def __init__(self, channels):
        super().__init__()
        self.values = nn.Conv3d(channels, 8, 1)

    def forward(self, pyramid):
        return torch.cat([self.values(level).flatten(2).transpose(1, 2) for level in pyramid], dim=1)


class QualityLoss(BoxLoss):
    def per_anchor(self, outputs, anchors, boxes, coder):
        decoded = coder.decode(outputs[:, :6], anchors)
        quality = box_iou(decoded, boxes).diagonal().detach() if len(boxes) else outputs[:, 6]
        of_box = (outputs[:, :6] - coder.encode(boxes, anchors)).abs().sum(dim=1)
        return of_box + (outputs[:, 6] - quality).square() + 0 * outputs[:, 7]


class QualityScores(PostProcessing):
    def scores(self, logits, outputs):
        return logits.sigmoid() * outputs[:, 6:7].clamp(0, 1)

    def boxes(self, outputs, anchors, coder):
        return coder.decode(outputs[:, :6], anchors)


def assembled():
    torch.manual_seed(0)
    backbone = ResEnc("XXS")
    return DenseDetector(
        backbone,
        num_classes=1,
        anchors=AnchorGrid([[(6, 6, 6)], [(12, 12, 12)]]),
        first_level=1,
        neck=FPN.down_to(backbone.levels, 1, num_outputs=2, channels=16),
        classification_head=ClassificationHead(16, anchors_per_cell=1, num_classes=1, num_convs=1),
        box_head=QualityHead(16),
        coder=BoxCoder(),
        matcher=NearestAnchor(),
        classification=FocalLoss(),
        box_loss=QualityLoss(weight=0.5),
        post_processing=QualityScores(0.0, 0.3, candidates_per_image=50, detections_per_image=5),
    )


def test_a_detector_of_parts_of_ones_own_trains_and_finds():
    model = assembled()
    random = torch.Generator().manual_seed(1)
    image = 0.1 * torch.randn(1, 1, 16, 16, 32, generator=random)
    box = torch.tensor([[4.0, 4, 8, 10, 10, 14]])
    image[:, :, 4:10, 4:10, 8:14] += 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(120):  # after 40 the rounding of the first steps still decides
        optimizer.zero_grad()
        losses = model.losses(image, [Targets(box, torch.tensor([0]))])
        assert sorted(losses) == ["boxes", "classification"]
        sum(losses.values()).backward()
        optimizer.step()
    best = model.eval().detect(image)[0]
    assert 0 < len(best) <= 5
    assert box_iou(best.boxes[:1], box).item() > 0.5
    assert model.outputs(image)[1].shape[2] == 8


def test_its_example_does_what_it_says():
    test = doctest.DocTestFinder(recurse=False).find(DenseDetector, "DenseDetector", globs={})[0]
    assert doctest.DocTestRunner().run(test).failed == 0


def test_no_config_names_it():
    assert "DenseDetector" not in known_classes(Detector)


def test_every_part_gets_a_gradient_also_without_objects():
    model = assembled()
    targets = [Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))]
    sum(model.losses(torch.randn(1, 1, 16, 16, 16), targets).values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_box_loss_by_name_is_the_object_of_that_name(name):
    by_name = tiny_detector(RetinaNet, box_loss=name, box_weight=2.0)
    by_object = tiny_detector(RetinaNet, box_loss=BOX_LOSSES[name](weight=2.0))
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    targets = [Targets(torch.tensor([[2.0, 3, 4, 9, 9, 9]]), torch.tensor([1]))]
    assert by_name.losses(image, targets)["boxes"].equal(by_object.losses(image, targets)["boxes"])
    rebuilt = from_config(to_config(by_object))
    assert type(rebuilt.box_loss) is BOX_LOSSES[name]
    assert rebuilt.box_loss.weight == 2


def test_a_box_loss_object_has_its_own_weight():
    with pytest.raises(UserError, match=r"box_weight 2: is for a box_loss given by name; L1Loss has"):
        tiny_detector(RetinaNet, box_loss=L1Loss(), box_weight=2.0)


def test_box_losses_by_hand():
    anchors, boxes, coder = (
        torch.tensor([[0.0, 0, 0, 4, 4, 4]] * 2),
        torch.tensor([[2.0, 0, 0, 6, 4, 4]] * 2),
        BoxCoder(),
    )
    deltas = torch.zeros(2, 6)
    # Half an anchor apart. IoU is 2 of 6; the hull is the union, so GIoU is IoU.
    assert GIoULoss()(deltas, anchors, boxes, coder)["boxes"].item() == pytest.approx(2 / 3)
    assert L1Loss(weight=3.0)(deltas, anchors, boxes, coder)["boxes"].item() == pytest.approx(1.5)
    assert SmoothL1Loss(beta=0.25)(deltas, anchors, boxes, coder)["boxes"].item() == pytest.approx(0.5 - 0.125)
    assert L1Loss()(deltas[:0], anchors[:0], boxes[:0], coder)["boxes"].item() == 0


@pytest.mark.parametrize(
    ("box_loss", "kind"),
    [
        ("l1", L1Loss),
        ({"class_path": "SmoothL1Loss", "init_args": {"beta": 0.5, "weight": 2.0}}, SmoothL1Loss),
        ({"class_path": "medpretrain3d.detection.GIoULoss"}, GIoULoss),
    ],
    ids=["name", "object", "full path"],
)
def test_a_recipe_names_a_box_loss_or_describes_one(box_loss, kind):
    parser = ArgumentParser()
    parser.add_argument("--detector", type=Detector)
    arguments = {
        "backbone": {"class_path": "ResEnc", "init_args": {"preset": "XXS"}},
        "num_classes": 1,
        "anchors": {"class_path": "AnchorGrid", "init_args": {"sizes": [[[4, 4, 4]]]}},
        "fpn_channels": 8,
        "box_loss": box_loss,
    }
    parsed = parser.parse_object({"detector": {"class_path": "RetinaNet", "init_args": arguments}})
    detector = parser.instantiate_classes(parsed).detector
    assert type(detector.box_loss) is kind
    assert type(from_config(to_config(detector)).box_loss) is kind
