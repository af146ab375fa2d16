"""Thresholds that are read from validation scans, stored in the bundle and applied by `predict`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.cli import main
from medpretrain3d.cross_validation.validation_scores import operating_points_of
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, Prediction, load_bundle, load_members, save_bundle
from medpretrain3d.inference.bundle import set_inference, set_operating_points
from medpretrain3d.inference.ensemble import save_ensemble
from medpretrain3d.inference.operating_points import OperatingPoints, operating_points_document
from medpretrain3d.inference.thresholds import Thresholds
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing

BOX = torch.tensor([[0.0, 0, 0, 4, 4, 4]])


def scan(*scored: tuple[float, bool], num_targets: int = 1, label: int = 0) -> tuple[Detections, Targets]:
    """A scan: scores of detections, each on an object or beside all."""
    boxes = [BOX + (0 if is_hit else 100 + 10 * number) for number, (_, is_hit) in enumerate(scored)]
    scores, labels = torch.tensor([score for score, _ in scored]), torch.full((len(scored),), label)
    wanted = torch.cat([BOX + 1000 * number for number in range(num_targets)]) if num_targets else BOX[:0]
    found = Detections(torch.cat(boxes) if boxes else BOX[:0], scores, labels)
    return found, Targets(wanted, torch.full((num_targets,), label))


# Two objects in scan 1, of which one is found with 0.8; false positives 0.9, 0.6, 0.5, 0.5, 0.2 in four scans.
SCANS = [
    scan((0.9, False), (0.8, True), num_targets=2),
    scan((0.6, False), (0.5, False), num_targets=0),
    scan((0.55, True), (0.5, False)),
    scan((0.2, False), num_targets=0),
]


@pytest.fixture
def points() -> OperatingPoints:
    return OperatingPoints.from_json(operating_points_of(*zip(*SCANS, strict=True), ["nodule"]))


@pytest.mark.parametrize(
    ("rate", "above", "sensitivity", "num_false"),
    [
        (0, 0.9, 0, 0),  # the best detection of all is a false positive
        (0.25, 0.6, 1 / 3, 1),
        (0.5, 0.5, 2 / 3, 2),
        (0.75, 0.5, 2 / 3, 2),  # two of 0.5 come together, and would be four
        (1, 0.2, 2 / 3, 4),
        (1.24, 0.2, 2 / 3, 4),
        (2, None, 2 / 3, 5),
    ],
)
def test_the_lowest_threshold_with_so_many_false_positives_per_scan(points, rate, above, sensitivity, num_false):
    found = points.at_rate(rate)
    assert found.score == (0 if above is None else float(np.nextafter(np.float32(above), np.float32(2))))
    assert (found.sensitivity, found.false_positives_per_scan) == pytest.approx((sensitivity, num_false / 4))


def test_classes_have_thresholds_of_their_own_and_scans_one():
    both = [*SCANS, scan((0.95, False), (0.3, True), label=1), scan(label=1)]
    points = OperatingPoints(operating_points_of(*zip(*both, strict=True), ["nodule", "mass"]))
    assert points.at_rate(0.17, "mass").score == 0.0
    assert points.at_rate(0.17, "mass").sensitivity == 0.5
    assert points.at_rate(0.17, "nodule").score == pytest.approx(0.6)
    assert points.at_rate(0.17).score == pytest.approx(0.9)
    # With objects 0.9, 0.55, 0.95, 0; without 0.6, 0.2: from 0.9 on 2 of 4 and 0 of 2, from 0.55 on 3 of 4 and 1 of 2.
    assert points.case_threshold() == pytest.approx(0.9)
    only = OperatingPoints(operating_points_of(*zip(*SCANS[:1], strict=True), ["nodule"]))
    assert only.case_threshold() is None
    with pytest.raises(UserError, match="17 false positives per scan: wanted 0 to 16"):
        only.at_rate(17)
    with pytest.raises(UserError, match="operating points of class 'cyst': known are nodule"):
        only.at_rate(1, "cyst")


def test_operating_points_state_what_decides_a_hit(points):
    assert (points.document["iou"], "criterion" in points.document) == (0.1, False)
    center = torch.full((1, 6), 5.0)
    found, wanted = Detections(center + 2, torch.tensor([0.5]), torch.zeros(1)), Targets(center, torch.zeros(1))
    of_points = operating_points_of([found], [wanted], ["nodule"])
    assert (of_points["criterion"], "iou" in of_points) == ("radius", False)
    assert of_points["classes"]["nodule"]["hits"] == [0.5]
    OperatingPoints.from_json(of_points)


SCORES = {
    "one stage, as it is": lambda random: float(np.float32(random.random())),
    "one stage, as predictions.json has it": lambda random: float(f"{np.float32(random.random()):.9g}"),
    "two stages": lambda random: float(random.random()),
    "two stages, sure": lambda random: 1 - 1e-9 * float(random.random()),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_threshold_does_in_the_scans_it_was_chosen_in_what_it_says(name):
    random = np.random.default_rng(0)
    # What is compared with a threshold: the digits of a file stand for the float32 that a detector gives.
    compared = np.float32 if name.startswith("one") else np.float64
    for _ in range(200):
        low, high = sorted(SCORES[name](random) for _ in range(2))
        scores = {"nodule": {"num_targets": 1, "hits": [high], "false_positives": [low]}}
        document = operating_points_document("validation", 2, {"iou": 0.1}, scores, [(high, True), (low, False)])
        points = OperatingPoints.from_json(json.loads(json.dumps(document)))
        case = points.case_threshold()
        assert case is not None
        assert float(compared(low)) < case <= float(compared(high))
        found = points.at_rate(0)
        assert (found.sensitivity, found.false_positives_per_scan) == (1, 0)
        assert float(compared(low)) < found.score <= float(compared(high))


def test_scores_of_one_stage_are_written_by_nine_digits_and_others_in_full():
    score, other = float(np.float32(0.7)), 1 - 2**-50
    scores = {"nodule": {"num_targets": 2, "hits": [score, 0.5], "false_positives": [0.3]}}
    document = operating_points_document(
        "validation", 2, {"iou": 0.1}, scores, [(score, True), (other, False), (0.5, False)]
    )
    assert document["classes"]["nodule"]["hits"] == [0.699999988, 0.5]
    assert document["classes"]["nodule"]["false_positives"] == [0.3]
    assert (document["positive_scans"], document["negative_scans"]) == ([0.699999988], [other, 0.5])


def test_masks_are_numbered_as_the_boxes_that_stay():
    grid, boxes = Grid((8, 8, 8), np.eye(4)), np.array([[n, 0, 0, n + 1, 1, 1] for n in range(4)], dtype=float)
    instances = np.zeros((8, 8, 8), np.uint16)
    instances[:4, 0, 0] = [1, 2, 3, 4]
    scores, labels = np.array([0.9, 0.6, 0.5, 0.4]), np.array([0, 1, 0, 1])
    found = Prediction("a", grid, boxes, boxes, scores, labels, instances=instances)
    shown = Thresholds((0.7, 0.4), case=0.95).applied(found)
    assert (shown.scores.tolist(), shown.labels.tolist()) == ([0.9, 0.6, 0.4], [0, 1, 1])
    assert shown.instances is not None
    assert shown.instances[:5, 0, 0].tolist() == [1, 2, 0, 3, 0]
    assert (shown.is_positive, shown.case_score) == (False, 0.9)
    assert Thresholds((1.0, 1.0)).applied(found).is_positive is False
    assert Thresholds((0.5, 1.0)).applied(found).is_positive is True


@pytest.fixture
def bundle(tiny_detector, tmp_path) -> Path:
    folder = tmp_path / "bundle"
    config = InferenceConfig(score_threshold=0.0, max_per_class=6)
    save_bundle(folder, tiny_detector, ["nodule"], Preprocessing((16, 16, 16)), config)
    return folder


def test_a_bundle_and_an_ensemble_keep_their_operating_points(bundle, tmp_path, points):
    assert load_bundle(bundle).operating_points is None
    set_operating_points(bundle, points.document)
    assert load_bundle(bundle).operating_points == points
    save_ensemble(tmp_path / "both", {"one": bundle}, InferenceConfig(), operating_points=points.document)
    assert load_members(tmp_path / "both")[0].operating_points == points
    save_ensemble(tmp_path / "none", {"one": bundle}, InferenceConfig())
    assert load_members(tmp_path / "none")[0].operating_points is None  # those of a member are not of all
    set_inference(bundle, InferenceConfig(nms_iou=0.5), {})
    assert load_bundle(bundle).operating_points is None  # of another way of merging
    broken = json.loads((bundle / "bundle.json").read_text()) | {"operating_points": {"num_scans": 0}}
    (bundle / "bundle.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match="operating_points"):
        load_bundle(bundle)


def test_predict_at_a_rate_of_false_positives(bundle, tmp_path, capsys):
    array = np.random.default_rng(0).integers(-1000, 500, (16, 16, 16)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii.gz")

    def predict(*options: str, expect: int = 0) -> tuple[dict[str, object], str]:
        words = ["predict", str(bundle), str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out"), "--device", "cpu"]
        assert main([*words, *options]) == expect
        said = capsys.readouterr()
        (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
        return entry, said.out + said.err

    every, _ = predict()
    scores = every["scores"]
    assert len(scores) == 6 > len(set(scores)) - 6
    assert "is_positive" not in every
    assert "holds no operating points" in predict("--at-fp", "1", expect=2)[1]
    # Of four scans: at most one false positive per scan leaves the four highest of these five false positives.
    false = [*scores[:4], scores[4]]
    document = {"num_targets": 1, "hits": [scores[0]], "false_positives": false}
    stated = {"scans": "validation", "num_scans": 4, "iou": 0.1, "classes": {"nodule": document}}
    set_operating_points(bundle, {**stated, "positive_scans": [1.0], "negative_scans": [scores[0]]})
    shown, said = predict("--at-fp", "1")
    assert shown["scores"] == [score for score in scores if score > scores[4]]
    assert (shown["is_positive"], shown["case_score"]) == (False, scores[0])
    assert "sensitivity 1.000 and 1 false positives per scan in 4 validation scans" in said
    assert "0 of 1 scans called positive" in said
    shown, said = predict("--at-fp", "1", "--case-threshold", "0", "--class-threshold", "nodule=1")
    assert (shown["scores"], shown["is_positive"]) == ([], True)
    assert "1 of 1 scans taken from" in said  # nothing is predicted again for another threshold
    assert predict()[0] == every
    assert "chosen with the bundle's own options" in predict("--at-fp", "1", "--nms-iou", "0.9")[1]
    (tmp_path / "masks").mkdir()
    nibabel.save(
        nibabel.Nifti1Image(np.ones((16, 16, 16), np.uint8), np.diag([-1.0, -1, 1, 1])),
        tmp_path / "masks" / "a.nii.gz",
    )
    within = ["--region", str(tmp_path / "masks")]
    assert "chosen without a region" in predict("--at-fp", "1", *within)[1]
    assert "chosen without a region" not in predict(*within)[1]
    for options, message in (
        (["--at-fp", "99"], "99 false positives per scan: wanted 0 to 16"),
        (["--at-fp-per-class"], "goes with --at-fp RATE"),
        (["--class-threshold", "mass=0.5"], "the bundle has no class 'mass', it has nodule"),
        (["--class-threshold", "nodule=2"], "wanted CLASS=SCORE with a score from 0 to 1"),
    ):
        assert message in predict(*options, expect=2)[1]
