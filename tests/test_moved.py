from __future__ import annotations

import importlib
import json

import pytest

from medpretrain3d.backbones import ResEnc
from medpretrain3d.command_line.recipes import load_recipe
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import FocalLoss
from medpretrain3d.errors import UserError
from medpretrain3d.moved import MOVED, current_arguments, current_class_path
from medpretrain3d.objectives import DINO
from medpretrain3d.store.intensity import Window


def test_a_file_that_names_the_earlier_place_of_a_class_is_read():
    window = from_config(
        {"class_path": "medpretrain3d.data.intensity.Window", "init_args": {"low_hu": -1, "high_hu": 1}}
    )
    assert type(window) is Window


def test_a_recipe_of_earlier_is_one_of_today():
    recipe = load_recipe("augment: [{class_path: medpretrain3d.data.augment.SpatialAugment, init_args: {zoom_p: 0}}]")
    assert recipe["augment"][0]["class_path"] == "medpretrain3d.loading.augment.SpatialAugment"


@pytest.mark.parametrize("path", ["medpretrain3d.backbones.ResEnc", "torch.nn.Linear", "Window"])
def test_other_places_stay(path):
    assert current_class_path(path) == path


@pytest.mark.parametrize(("rule", "guarantee_match"), [("house", True), ("nndetection", False)])
@pytest.mark.parametrize("path", ["medpretrain3d.detection.matching.ATSSMatcher", "ATSSMatcher"])
def test_the_rule_of_a_matcher_is_read_from_recipes_and_files_of_before(path, rule, guarantee_match):
    before = {"class_path": path, "init_args": {"num_candidates": 2, "rule": rule}}
    recipe = load_recipe(json.dumps({"detector": {"init_args": {"matcher": before}}}))
    now = recipe["detector"]["init_args"]["matcher"]
    assert now == {"class_path": path, "init_args": {"num_candidates": 2, "guarantee_match": guarantee_match}}
    if "." in path:
        matcher = from_config(before)
        assert (matcher.num_candidates, matcher.guarantee_match) == (2, guarantee_match)
        assert to_config(matcher) == now


def test_a_detector_of_before_is_built_with_all_its_parts():
    grid = {"class_path": "medpretrain3d.detection.anchors.AnchorGrid", "init_args": {"sizes": [[[4, 4, 4]]]}}
    matcher = {"class_path": "medpretrain3d.detection.matching.ATSSMatcher", "init_args": {"rule": "nndetection"}}
    loss = {"class_path": "medpretrain3d.detection.sampling.FocalLoss", "init_args": {"gamma": 1.0}}
    arguments = {"num_classes": 1, "anchors": grid, "matcher": matcher, "classification": loss, "fpn_channels": 8}
    backbone = {"class_path": "medpretrain3d.backbones.resenc.ResEnc", "init_args": {"preset": "XXS"}}
    path = "medpretrain3d.detection.retinanet.RetinaNet"
    detector = from_config({"class_path": path, "init_args": {"backbone": backbone, **arguments}})
    assert not detector.matcher.guarantee_match
    assert type(detector.classification) is FocalLoss
    assert detector.classification.gamma == 1.0


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("my_package.ATSSMatcher", {"rule": "house"}),  # another's class of the same name
        ("ATSSMatcher", {"rule": "best"}),  # never one of its values: the constructor says so
        ("ATSSMatcher", {"rule": ["house"]}),
        ("ATSSMatcher", {"rule": "house", "guarantee_match": False}),
        ("IoUMatcher", {"rule": "house"}),
    ],
)
def test_other_arguments_stay(path, arguments):
    assert current_arguments(path, arguments) == arguments


def test_a_rule_that_never_was_is_refused():
    with pytest.raises(UserError, match="rule"):
        from_config({"class_path": "medpretrain3d.detection.matching.ATSSMatcher", "init_args": {"rule": "best"}})


@pytest.mark.parametrize("place", [place for place in MOVED.values() if "." in place])
def test_every_new_place_exists(place):
    module, _, name = place.rpartition(".")
    if name[0].isupper():
        assert isinstance(getattr(importlib.import_module(module), name), type)
    else:
        importlib.import_module(place)


def test_options_in_their_earlier_spelling_are_read():
    recipe = load_recipe(
        "data: {sites: {class_path: Sites, init_args: {object_share: 0.3}}, views: {class_path: "
        "medpretrain3d.data.views.LabelledView, init_args: {unlabelled: skip}}}"
    )
    assert recipe["data"] == {
        "crop_sampler": {"class_path": "CropSampler", "init_args": {"object_share": 0.3}},
        "views": {"class_path": "medpretrain3d.loading.views.LabeledView", "init_args": {"unlabeled": "skip"}},
    }
    assert load_recipe("classes: {sites: 1}") == {"classes": {"sites": 1}}


@pytest.mark.parametrize("earlier", ["centre", "center"])
def test_the_center_of_dino_is_read_from_a_checkpoint_of_before(earlier):
    objective = DINO(ResEnc("XXS"), num_prototypes=4, head_channels=(8,))
    state = {name.replace("center.mean", earlier): value + 1 for name, value in objective.state_dict().items()}
    assert earlier in state
    objective.load_state_dict(state)
    assert objective.center.mean.tolist() == [1.0] * 4
