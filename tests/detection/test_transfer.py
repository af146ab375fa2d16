"""Which tensors a detector takes of another, by name."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import DetectorPart
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import (
    FCOS,
    AnchorGrid,
    BallTarget,
    DeformableDETR,
    HeatMap,
    InstanceMasks,
    RetinaNet,
    RetinaUNet,
)
from medpretrain3d.detection.transfer import chosen_init, load_detector
from medpretrain3d.errors import UserError
from tests.tiny_detectors import ANCHORS, TINY_DETECTORS, tiny_detector

OTHER = AnchorGrid([[(5, 5, 5), (6, 9, 9)], [(12, 12, 12), (12, 18, 18)]])  # as many, of another size
LABELS = {
    RetinaNet: {"classification_head.output.weight", "classification_head.output.bias"},
    FCOS: {"classification_head.output.weight", "classification_head.output.bias"},
    HeatMap: {"classification_head.output.weight", "classification_head.output.bias"},
    DeformableDETR: {f"classifiers.{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias")},
}
LABELS[RetinaUNet] = LABELS[RetinaNet] | {"segmenter.weight", "segmenter.bias"}


def part(detector):
    torch.manual_seed(7)
    for parameter in detector.parameters():
        torch.nn.init.normal_(parameter)
    return DetectorPart.of_state(to_config(detector), detector.state_dict())


def names(detector):
    return {name for name in detector.state_dict() if not name.startswith("backbone.")}


@pytest.mark.parametrize("cls", LABELS)
def test_all_is_everything_but_class_layers_and_mask_classifier(cls):
    detector, theirs = tiny_detector(cls, num_classes=5), part(tiny_detector(cls, num_classes=3))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    report = load_detector(detector, theirs, "all")
    assert set(report.taken) == names(detector) - LABELS[cls]
    assert report.total == len(report.taken) + len(LABELS[cls])
    after = detector.state_dict()
    for name in names(detector):
        assert torch.equal(after[name], theirs.weights[name] if name in report.taken else before[name]), name
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("backbone."))
    assert report.fresh == report.unused == {"class layers": len(LABELS[cls])}


@pytest.mark.parametrize("cls", LABELS)
def test_detector_leaves_the_class_tower_fresh_too_and_neck_takes_the_neck(cls):
    theirs = part(tiny_detector(cls, num_classes=3))
    taken = {init: load_detector(tiny_detector(cls), theirs, init).taken for init in ("encoder", "neck", "detector")}
    neck = ("fpn.",) if cls is not DeformableDETR else ("project.", "level_position", "encoder.", "encoder_norm.")
    every = names(tiny_detector(cls))
    assert taken["encoder"] == ()
    assert set(taken["neck"]) == {name for name in every if name.startswith(neck)}
    tower = {name for name in every if name.startswith("classification_head.")}
    assert set(taken["detector"]) == every - LABELS[cls] - tower


def test_queries_of_detr_come_along():
    report = load_detector(
        tiny_detector(DeformableDETR), part(tiny_detector(DeformableDETR, num_classes=3)), "detector"
    )
    assert {"query.0.weight", "objectness.weight", "refine.1.0.weight", "level_position"} <= set(report.taken)


def test_what_anchors_shape_is_fresh_on_other_anchors_even_if_there_are_as_many():
    detector = tiny_detector(RetinaNet, anchors=OTHER)
    report = load_detector(detector, part(tiny_detector(RetinaNet, num_classes=3)), "all")
    left = {"box_head.output.weight", "box_head.output.bias", "box_head.scale"}
    assert names(detector) - set(report.taken) == left | LABELS[RetinaNet]
    assert "box_head.scale and 2 more fresh: relative to other anchors or lengths than in the file" in str(report)


@pytest.mark.parametrize(("spacing_mm", "diameter_mm"), [((1.0, 1.0, 1.0), 5.0), ((2.0, 1.0, 1.0), 10.0)])
def test_extents_of_a_heat_map_are_fresh_where_they_are_relative_to_another_length(spacing_mm, diameter_mm):
    theirs = part(tiny_detector(HeatMap, num_classes=3, regression="box", diameter_mm=10.0))
    same = tiny_detector(HeatMap, regression="box", target=BallTarget(radius_mm=5.0))  # which is 10 mm across
    assert {"box_head.output.weight", "box_head.output.bias"} <= set(load_detector(same, theirs, "detector").taken)
    other = tiny_detector(HeatMap, regression="box", spacing_mm=spacing_mm, diameter_mm=diameter_mm)
    report = load_detector(other, theirs, "detector")
    assert {name for name in names(other) if name.startswith("box_head.")} - set(report.taken) == {
        "box_head.output.weight",
        "box_head.output.bias",
    }
    assert "relative to other anchors or lengths than in the file" in str(report)
    # Offsets are in cells.
    theirs = part(tiny_detector(HeatMap, num_classes=3, diameter_mm=10.0))
    report = load_detector(tiny_detector(HeatMap, diameter_mm=diameter_mm), theirs, "detector")
    assert "box_head.output.weight" in report.taken


def test_a_mask_head_is_left_where_its_own_neck_joins_other_levels():
    theirs = part(tiny_detector(FCOS, masks=InstanceMasks(level=0, channels=16, size=4)))
    same = tiny_detector(FCOS, masks=InstanceMasks(level=0, channels=16, size=4))
    assert any(name.startswith("mask_head.") for name in load_detector(same, theirs, "detector").taken)
    report = load_detector(tiny_detector(FCOS, masks=InstanceMasks(level=1, channels=16, size=4)), theirs, "detector")
    assert not any(name.startswith("mask_head.") for name in report.taken)
    assert "box_head.scale" in report.taken
    assert "masks of level 1, in the file of level 0" in str(report)


def test_attention_of_other_heads_is_left_though_its_tensors_have_the_same_shapes():
    theirs = part(tiny_detector(DeformableDETR, num_heads=2, num_points=4))
    report = load_detector(tiny_detector(DeformableDETR, num_heads=4, num_points=2), theirs, "all")
    assert report.taken == ()
    assert "'num_heads': 4, 'num_points': 2}, in the file of" in str(report)
    assert load_detector(tiny_detector(DeformableDETR, num_heads=2, num_points=4), theirs, "detector").fresh == {
        "class layers": 4
    }


@pytest.mark.parametrize(("ours", "its"), [(1, 3), (3, 1)])
@pytest.mark.parametrize(("cls", "options"), [(FCOS, {}), (RetinaNet, {}), (HeatMap, {"regression": "box"})])
def test_an_output_behind_a_tower_of_another_length_is_fresh_and_what_towers_share_is_taken(cls, options, ours, its):
    theirs = part(tiny_detector(cls, head_convs=its, **options))
    detector = tiny_detector(cls, head_convs=ours, **options)
    report = load_detector(detector, theirs, "detector")
    of_box_head = {name for name in report.taken if name.startswith("box_head.")}
    assert of_box_head == {f"box_head.tower.{name}" for name in ("0.weight", "1.weight", "1.bias")}
    assert f"behind {2 * ours} layers of box_head.tower.*, in the file behind {2 * its}" in str(report)


def test_masks_behind_a_tower_of_another_length_are_fresh():
    theirs = part(tiny_detector(FCOS, masks=InstanceMasks(channels=16, size=4, convs=2)))
    report = load_detector(tiny_detector(FCOS, masks=InstanceMasks(channels=16, size=4, convs=1)), theirs, "detector")
    assert "mask_head.tower.0.weight" in report.taken
    assert not {name for name in report.taken if name.startswith(("mask_head.upsample.", "mask_head.output."))}
    assert "box_head.scale" in report.taken


def test_what_reads_an_encoder_of_another_depth_is_fresh_and_its_first_layers_are_taken():
    theirs = part(tiny_detector(DeformableDETR, encoder_layers=2, decoder_layers=3))
    report = load_detector(tiny_detector(DeformableDETR, encoder_layers=1), theirs, "detector")
    assert {name.partition(".")[0] for name in report.taken} == {"project", "level_position", "encoder"}
    same = load_detector(tiny_detector(DeformableDETR, encoder_layers=2), theirs, "detector")
    assert same.fresh == {"class layers": 4}  # the first two of three decoder layers are a decoder


def test_a_neck_of_other_levels_is_left_and_said():
    detector = tiny_detector(FCOS, first_level=1)
    report = load_detector(detector, part(tiny_detector(FCOS)), "neck")
    assert report.taken == ()
    assert report.fresh["neck"] == sum(name.startswith("fpn.") for name in names(detector))
    assert "finest_level" in str(report)


def test_other_strides_of_the_backbone_leave_the_neck_too():
    strides = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    detector = tiny_detector(RetinaNet, strides=strides)
    assert load_detector(detector, part(tiny_detector(RetinaNet)), "neck").taken == ()


def test_heads_are_left_where_the_neck_that_they_read_has_another_width():
    report = load_detector(tiny_detector(FCOS, fpn_channels=32), part(tiny_detector(FCOS)), "detector")
    assert report.taken == ()  # not even scales and biases, whose shapes are the same
    assert "another width of the neck (fpn.lateral.0.weight)" in str(report)


def test_more_detection_levels_of_one_pyramid_share_what_both_have():
    more = AnchorGrid([*ANCHORS.sizes, ANCHORS.sizes[-1]])
    detector = tiny_detector(RetinaNet, anchors=more, first_level=1)
    theirs = part(tiny_detector(RetinaNet, first_level=1))
    report = load_detector(detector, theirs, "detector")
    left = {name for name in names(detector) if name.startswith(("fpn.output.2", "box_head.output", "box_head.scale"))}
    assert {name for name in names(detector) if name.startswith(("fpn.", "box_head."))} - set(report.taken) == left


def test_a_pyramid_that_goes_on_to_full_resolution_is_another_one():
    report = load_detector(tiny_detector(RetinaUNet), part(tiny_detector(RetinaNet, num_classes=3)), "all")
    assert report.taken == ()  # `fpn.lateral.0` is of another level
    assert set(TINY_DETECTORS) >= set(LABELS)


def test_values_that_are_not_finite_are_refused():
    theirs = part(tiny_detector(FCOS))
    theirs.weights["box_head.scale"][0] = torch.nan
    with pytest.raises(UserError, match="runs/enc"):
        load_detector(tiny_detector(FCOS), theirs, "detector", "runs/enc")


def test_where_nothing_is_said_a_pretrained_detector_is_taken_and_of_others_the_encoder():
    some = DetectorPart({}, {})
    assert chosen_init(None, some, True, "a") == "detector"
    assert chosen_init(None, some, False, "a") == "encoder"
    assert chosen_init(None, None, False, "a") == "encoder"
    assert chosen_init("all", some, False, "a") == "all"
    with pytest.raises(UserError, match=r"model\.init neck: a holds no neck and heads"):
        chosen_init("neck", None, False, "a")
    with pytest.raises(UserError, match=r"no model\.init_from"):
        chosen_init("all", None, False, None)


def test_an_unknown_part_of_a_detector_of_others_is_taken_with_all_alone():
    class Mine(FCOS):
        def __init__(self, backbone, num_classes):
            super().__init__(backbone, num_classes, fpn_channels=16, head_convs=1)
            self.extra = torch.nn.Linear(2, 2)

    own, theirs = tiny_detector(FCOS), part(tiny_detector(FCOS))
    own.extra = torch.nn.Linear(2, 2)
    theirs.weights["extra.weight"], theirs.weights["extra.bias"] = torch.ones(2, 2), torch.ones(2)
    assert "extra.weight" not in load_detector(own, theirs, "detector").taken
    assert "extra.weight" in load_detector(own, theirs, "all").taken
