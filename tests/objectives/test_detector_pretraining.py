"""A detector as a pretraining task: the losses are its own, whatever stands beside it."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DetectorPart, ResEnc, TokenPyramid, ViT
from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import FCOS, Detector
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE, DetectorPretraining, SimCLR, SparK
from medpretrain3d.randomness import sample_seeds
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import tiny_batch


def batch() -> dict[str, torch.Tensor]:
    """Two crops of 16^3: one with two objects and an ignore region, one with nothing."""
    label_map = torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    label_map[0, 2:9, 3:9, 4:9] = 2
    return {
        **tiny_batch("ResEnc"),
        "boxes": torch.tensor([[2.0, 3, 4, 9, 9, 9], [9, 9, 9, 15, 15, 15]]),
        "labels": torch.tensor([1, 0]),
        "box_of": torch.tensor([0, 0]),
        "ignore": torch.tensor([[0.0, 0, 0, 2, 2, 2]]),
        "ignore_of": torch.tensor([1]),
        "label_map": label_map,
    }


def targets(of: dict[str, torch.Tensor], mask_max: int = 2) -> list[Targets]:
    first, second = of["label_map"].clamp(max=mask_max)
    none, no_label = torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)
    return [
        Targets(of["boxes"], of["labels"], first, none, of["seed"][0]),
        Targets(none, no_label, second, of["ignore"], of["seed"][1]),
    ]


@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_the_loss_is_the_sum_of_the_detector_s_own(cls):
    detector: Detector = tiny_detector(cls)
    out = DetectorPretraining(detector)(batch())
    with sample_seeds(batch()["seed"]):
        losses = detector.losses(batch()["image"], targets(batch()))
    assert out.loss.item() == pytest.approx(sum(loss.item() for loss in losses.values()), rel=1e-6)
    assert {name: value.item() for name, value in out.logs.items() if name in losses} == pytest.approx(
        {name: value.item() for name, value in losses.items()}
    )
    assert out.logs["num_objects"] == 2


def test_without_classes_all_objects_are_one():
    detector = tiny_detector(next(iter(TINY_DETECTORS)), num_classes=1)
    out = DetectorPretraining(detector, (("bone", "air"),), class_agnostic=True)(batch())
    of = batch()
    with sample_seeds(of["seed"]):
        losses = detector.losses(of["image"], targets({**of, "labels": torch.tensor([0, 0])}, mask_max=1))
    assert out.loss.item() == pytest.approx(sum(loss.item() for loss in losses.values()), rel=1e-6)


def test_a_frozen_encoder_gets_no_gradient_and_all_else_does():
    objective = DetectorPretraining(tiny_detector(next(iter(TINY_DETECTORS))), frozen_encoder=True)
    objective(batch()).loss.backward()
    has_none = {name.split(".")[0] for name, parameter in objective.named_parameters() if parameter.grad is None}
    assert has_none == {"backbone"}


def test_branches_on_a_frozen_transformer_learn():
    backbone = TokenPyramid(ViT(**ViT.tiny), num_coarser=0)
    detector = FCOS(backbone, 2, fpn_channels=16, head_convs=1, first_level=0)
    objective = DetectorPretraining(detector, frozen_encoder=True)
    objective(batch()).loss.backward()
    has_none = {name for name, parameter in objective.named_parameters() if parameter.grad is None}
    assert has_none == {f"backbone.backbone.{name}" for name, _ in backbone.encoder.named_parameters()}


@pytest.mark.parametrize("beside", [MAE, SparK])
def test_both_losses_of_one_encoder_are_added(beside):
    detector = tiny_detector(next(iter(TINY_DETECTORS)))
    options = {"mask_ratio": 0.5, "mask_block": (8, 8, 8)}
    objective = DetectorPretraining(detector, beside=beside(ResEnc("XXS"), **options), weight=0.25)
    assert objective.beside.backbone is detector.backbone
    out = objective(batch())
    alone = DetectorPretraining(detector)(batch()).loss
    other = objective.beside(batch()).loss
    assert out.loss.item() == pytest.approx(0.25 * alone.item() + other.item(), rel=1e-6)
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert {"input", "masked", "restored"} <= out.preview.keys()
    twin = from_config(to_config(objective), DetectorPretraining)
    assert twin.state_dict().keys() == objective.state_dict().keys()
    parts = list(objective.compiled_parts().values())
    assert len(set(parts)) == len(parts)  # the encoder is compiled once


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"classes": (("bone", "air", "tissue"),)}, "got num_classes 2, but the store has 3 kinds of objects"),
        ({"class_agnostic": True}, "got num_classes 2 and class_agnostic, wanted 1"),
        ({"beside": MAE(ResEnc("XXS", in_channels=2), 0.5, (8, 8, 8))}, "MAE beside has another backbone"),
        ({"beside": SimCLR(ResEnc("XXS"))}, "SimCLR beside wants data.views TwoViews, here is ObjectView"),
        ({"beside": MAE(ResEnc("XXS"), 0.5, (8, 8, 8)), "frozen_encoder": True}, "got frozen_encoder and MAE beside"),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments, told):
    with pytest.raises(UserError, match=told):
        DetectorPretraining(tiny_detector(next(iter(TINY_DETECTORS))), **arguments)


def test_a_batch_without_boxes_names_the_views_that_it_wants():
    with pytest.raises(UserError, match=r"set data\.views to ObjectView"):
        DetectorPretraining(tiny_detector(next(iter(TINY_DETECTORS))))(tiny_batch("ResEnc"))


def test_it_goes_on_from_the_neck_and_heads_of_a_file():
    theirs, objective = tiny_detector(FCOS, num_classes=3), DetectorPretraining(tiny_detector(FCOS))
    torch.nn.init.normal_(theirs.box_head.scale)
    report = objective.take(DetectorPart.of_state(to_config(theirs), theirs.state_dict()), "a file")
    assert report.fresh == {"class layers": 2}
    assert torch.equal(objective.detector.box_head.scale, theirs.box_head.scale)
