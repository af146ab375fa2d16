"""What every detector promises, asked of each."""

from __future__ import annotations

import logging

import pytest
import torch

from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import (
    FCOS,
    ContrastiveDenoising,
    DeformableDETR,
    Denoising,
    Detector,
    FocalLoss,
    GaussianTarget,
    HardNegativeBCE,
    HeatMap,
    InstanceMasks,
    IoUMatcher,
    NearestPoints,
    OneToMany,
    RetinaNet,
    RetinaUNet,
    SetLoss,
    VarifocalSetLoss,
)
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, detect_tiles
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.values import constructor
from tests.tiny_detectors import TINY_DETECTORS
from tests.tiny_detectors import tiny_detector as make

EVERY_DETECTOR = list(TINY_DETECTORS)
# Three cells along D on the coarsest level: torch 2.14's bf16 weight gradient on CPU is random where there are two.
SHAPE = (24, 16, 32)
ISOTROPIC = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
ANISOTROPIC = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)]


def image(batch=2):
    return torch.randn(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


def with_object(mask=True):
    label_map = torch.zeros(SHAPE, dtype=torch.long)
    label_map[4:10, 6:14, 8:15] = 2
    return Targets(torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1]), label_map if mask else None)


def without_object():
    return Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))


BATCHES = {
    "objects with masks": lambda: [with_object(), with_object()],
    "objects without masks": lambda: [with_object(mask=False), with_object(mask=False)],
    "a mixed batch": lambda: [with_object(), without_object()],
    "no object at all": lambda: [without_object(), without_object()],
}


@pytest.mark.parametrize("strides", [ISOTROPIC, ANISOTROPIC], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_every_parameter_gets_a_gradient(detector, batch, strides):
    model = make(detector, strides=strides)
    losses = model.losses(image(), BATCHES[batch]())
    assert all(loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


OPTIONS = [
    *[
        (detector, options)
        for detector in (RetinaNet, RetinaUNet)
        for options in (
            {"classification": FocalLoss(alpha=0.75, gamma=1.0), "matcher": IoUMatcher()},
            {"box_loss": "l1"},
            {"box_loss": "diou"},
            {"box_loss": "smooth_l1", "head_convs": 1, "first_level": 1},
            {"first_level": 0},
        )
    ],
    (RetinaUNet, {"segmentation": "foreground"}),
    (FCOS, {"num_levels": 1, "matcher": NearestPoints(ignore_ratio=3), "box_loss": "diou"}),
    (FCOS, {"first_level": 1, "classification": HardNegativeBCE()}),
    (HeatMap, {"regression": "none", "target": GaussianTarget(), "hardest_share": 1.0}),
    (HeatMap, {"regression": "box", "first_level": 2, "head_convs": 0}),
    (DeformableDETR, {"auxiliary": Denoising(groups=2)}),
    (DeformableDETR, {"auxiliary": OneToMany(num_queries=8, repeats=2)}),
    (DeformableDETR, {"auxiliary": ContrastiveDenoising(groups=2), "criterion": VarifocalSetLoss()}),
    (DeformableDETR, {"num_levels": 1, "decoder_layers": 1, "criterion": SetLoss(l1_weight=1.0)}),
    *[(detector, {"masks": InstanceMasks(0, channels=8, size=2)}) for detector in (RetinaNet, FCOS, DeformableDETR)],
]


@pytest.mark.parametrize(
    ("detector", "options"), OPTIONS, ids=lambda value: ", ".join(value) if isinstance(value, dict) else value.__name__
)
def test_every_option_trains_every_parameter(detector, options):
    model = make(detector, **options)
    for batch in ("a mixed batch", "no object at all"):
        model.zero_grad()
        sum(model.losses(image(), BATCHES[batch]()).values()).backward()
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_an_ignore_region_quietens_the_classification(detector):
    everywhere = torch.tensor([[0.0, 0, 0, *SHAPE]])
    model = make(detector).eval()
    ignored = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long), ignore=everywhere)
    found = Targets(with_object().boxes, with_object().labels, ignore=everywhere)
    quiet, loud, objects = (model.losses(image(1), [one]) for one in (ignored, without_object(), found))
    assert sum(quiet.values()) < sum(loud.values())
    assert sum(objects.values()) > sum(quiet.values())  # objects in a region are still to be found
    if "classification" in quiet:
        assert quiet["classification"].item() == 0
        assert loud["classification"].item() > 0
        assert objects["classification"].item() > 0


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_predictions_that_are_not_finite_end_nothing(detector, caplog):
    model = make(detector).eval()
    spoilt = image()
    spoilt[0, 0, 0, 0, 0] = torch.nan  # instance norm spreads it over the first image; the second stays whole
    with caplog.at_level(logging.WARNING):
        found = model.detect(spoilt)
    assert len(found[0]) == 0
    assert len(found[1]) > 0
    assert "not finite" in caplog.text
    counted = model.num_invalid_predictions
    assert counted > 0
    losses = model.losses(spoilt, [with_object(mask=False), with_object(mask=False)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert model.num_invalid_predictions > counted


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
@pytest.mark.parametrize("batch", ["objects without masks", "no object at all"])
def test_a_step_without_any_finite_prediction_has_no_loss(detector, batch):
    losses = make(detector).losses(torch.full((2, 1, *SHAPE), torch.nan), BATCHES[batch]())
    assert torch.isnan(sum(losses.values()))


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_a_volume_without_any_finite_prediction_is_an_error(detector):
    model = make(detector).eval()
    volume = torch.zeros(1, 24, 16, 64)
    volume[..., 32:] = image()[0]
    detect_tiles(model, TensorTiles(volume, 0.0), SHAPE, InferenceConfig())
    volume[0, 0, 0, -1] = torch.nan  # one of three tiles
    detect_tiles(model, TensorTiles(volume, 0.0), SHAPE, InferenceConfig())
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"none of the \d+ predictions in a volume is finite"):
        detect_tiles(model, TensorTiles(volume, 0.0), SHAPE, InferenceConfig())


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_detections_are_inside_sorted_and_limited(detector):
    takes = constructor(detector).parameters
    most = 7 if "detections_per_image" in takes else 10**9
    found = make(detector, **({"detections_per_image": most} if most == 7 else {})).detect(image())
    assert len(found) == 2
    for detections in found:
        assert 0 < len(detections) <= most
        assert detections.boxes.dtype == torch.float32
        assert (detections.boxes >= 0).all()
        assert (detections.boxes[:, 3:] <= torch.tensor(SHAPE)).all()
        assert (detections.boxes[:, 3:] > detections.boxes[:, :3]).all()
        assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
        assert set(detections.labels.tolist()) <= {0, 1}
    if "score_threshold" in takes:
        assert not any(len(detections) for detections in make(detector, score_threshold=0.99).detect(image()))


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_an_image_is_detected_alone_as_in_a_batch(detector):
    model = make(detector).eval()
    torch.testing.assert_close(model.detect(image())[1].boxes, model.detect(image()[1:])[0].boxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_autocast_keeps_boxes_and_losses_in_float32(detector):
    model = make(detector)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(image(), BATCHES["a mixed batch"]())
        found = model.detect(image())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(detections.boxes.dtype == torch.float32 for detections in found)
    assert (found[0].boxes != found[0].boxes.bfloat16().float()).any()  # more digits than bf16 has
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_description_and_weights_rebuild_the_detector(detector):
    options = {
        RetinaUNet: {"classification": HardNegativeBCE(anchors_per_image=8), "nms_iou": 0.3},
        FCOS: {"matcher": NearestPoints(num_points=3), "masks": InstanceMasks(channels=8)},
        HeatMap: {"target": GaussianTarget(sigma_mm=3.0), "regression": "box", "spacing_mm": (2.0, 1.0, 1.0)},
        DeformableDETR: {"auxiliary": Denoising(groups=2), "criterion": SetLoss(class_cost=1.0)},
    }.get(detector, {})
    model = make(detector, strides=ANISOTROPIC, **options)
    rebuilt = from_config(to_config(model))
    rebuilt.load_state_dict(model.state_dict())
    assert type(rebuilt) is detector
    assert to_config(rebuilt) == to_config(model)
    one, two = model.detect(image())[0], rebuilt.detect(image())[0]
    assert one.boxes.equal(two.boxes)
    assert one.scores.equal(two.scores)


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_boxes_that_are_no_boxes_are_dropped_and_counted(detector, caplog):
    model = make(detector)
    good = with_object()
    bad = torch.tensor(
        [[5.0, 5, 5, 5, 9, 9], [0, 0, 0, torch.nan, 1, 1], [9, 9, 9, 1, 1, 1], [0, 0, 0, 1, 1, torch.inf]]
    )
    spoilt = Targets(torch.cat([bad, good.boxes]), torch.tensor([0, 0, 0, 0, 1]), good.mask)
    with caplog.at_level(logging.WARNING):
        torch.manual_seed(3)
        losses = model.losses(image(1), [spoilt])
    torch.manual_seed(3)
    expected = model.losses(image(1), [good])
    assert model.num_invalid_boxes == 4
    assert "dropped 4 target boxes" in caplog.text
    assert all(losses[name].item() == pytest.approx(expected[name].item()) for name in expected)


@pytest.mark.parametrize("detector", EVERY_DETECTOR)
def test_labels_of_another_data_set_are_refused(detector):
    wrong = Targets(with_object().boxes, torch.tensor([2]))
    with pytest.raises(UserError, match=r"labels \[2\].*0 \.\. 1"):
        make(detector).losses(image(1), [wrong])


CHOOSING = [cls for cls in EVERY_DETECTOR if {"first_level", "num_levels"} & set(constructor(cls).parameters)]


@pytest.mark.parametrize("detector", CHOOSING)
def test_levels_that_the_backbone_lacks_are_refused(detector):
    too_many = {"first_level": 4} if "first_level" in constructor(detector).parameters else {"num_levels": 5}
    with pytest.raises(UserError, match="4 levels; give"):
        make(detector, **too_many)


def test_a_detector_is_described_with_its_defaults():
    arguments = to_config(make(RetinaUNet))["init_args"]
    assert arguments["backbone"]["init_args"]["preset"] == "XXS"
    assert arguments["matcher"] is None
    assert arguments["detections_per_image"] == 100
    assert isinstance(make(RetinaUNet), Detector)
