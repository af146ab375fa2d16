"""A number that rests on fewer than 10 scans has no interval, however many scans the data set has."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.candidates import Points
from medpretrain3d.evaluation.case_level import case_level
from medpretrain3d.evaluation.center_distance import center
from medpretrain3d.evaluation.luna16 import luna16, match_candidates
from medpretrain3d.evaluation.mask_detection import MaskedScan, mask_detection
from medpretrain3d.evaluation.matching import Matches
from medpretrain3d.evaluation.operating_points import operating_points
from medpretrain3d.evaluation.overlap import ScanOverlap
from medpretrain3d.evaluation.picai import picai
from medpretrain3d.evaluation.ribfrac import ribfrac
from medpretrain3d.visualization.evaluation_figures import froc_figure, precision_recall_figure

NUM_SCANS = 40
INTERVALS = Resampling(num_bootstrap=20)


def matches(num_with_objects: int, scores: np.ndarray) -> Matches:
    """Return 40 scans with a detection each, which hits in those with an object, the first ones."""
    scan = np.arange(NUM_SCANS)
    has_object = scan < num_with_objects
    return Matches(scores, scan, has_object[None], has_object.astype(int))


def exists(interval: list[float]) -> bool:
    """Return whether there is an interval."""
    return not np.isnan(interval).any()


@pytest.mark.parametrize(("num_with_objects", "there"), [(3, False), (9, False), (10, True)])
def test_of_sensitivities_the_scans_with_objects_count(num_with_objects, there):
    of = matches(num_with_objects, np.full(NUM_SCANS, 0.55))
    point = operating_points(of, INTERVALS, (0.5,))[0]["intervals"]
    assert exists(point["sensitivity"]) is there
    assert exists(point["precision"])  # of 40 detections in 40 scans
    assert exists(point["false_positives_per_scan"])
    scans = [ScanOverlap(str(i), np.array([0.9]), np.full((1, int(i < num_with_objects)), 0.8)) for i in range(40)]
    assert exists(ribfrac(scans, INTERVALS)["intervals"]["froc_score"]) is there
    assert exists(picai(scans, INTERVALS)["intervals"]["AP"]) is there
    for figure in (froc_figure({"a": of}, INTERVALS), precision_recall_figure({"a": of}, INTERVALS)):
        (band,) = figure.axes[0].collections
        assert any(len(path.vertices) for path in band.get_paths()) is there


def test_of_precisions_the_scans_with_detections_count_at_each_score():
    scores = np.where(np.arange(NUM_SCANS) < 2, 0.95, 0.35)
    low, high = operating_points(matches(20, scores), INTERVALS, (0.3, 0.9))
    assert high["precision"] == 1  # of 2 detections in 2 scans
    assert not exists(high["intervals"]["precision"])
    assert exists(low["intervals"]["precision"])
    assert exists(high["intervals"]["sensitivity"])
    result = calibration(matches(20, scores), INTERVALS)
    assert {place for place, one in enumerate(result["bins"]) if exists(one["interval"])} == {3}
    assert exists(result["intervals"]["expected_calibration_error"])
    few = Matches(scores[:9], np.arange(9), np.ones((1, 9), bool), np.ones(NUM_SCANS, int))
    assert not exists(calibration(few, INTERVALS)["intervals"]["expected_calibration_error"])


@pytest.mark.parametrize(("num_positive", "there"), [(3, set()), (10, {"auroc", "auprc"}), (37, {"auprc"})])
def test_of_an_auroc_the_rarer_kind_of_scan_counts(num_positive, there):
    scores = np.random.default_rng(0).random(NUM_SCANS)
    intervals = case_level(matches(num_positive, scores), INTERVALS)["intervals"]
    assert {name for name in ("auroc", "auprc") if exists(intervals[name])} == there
    scans = [ScanOverlap(str(i), scores[[i]], np.full((1, int(i < num_positive)), 0.8)) for i in range(NUM_SCANS)]
    assert exists(picai(scans, INTERVALS)["intervals"]["auroc"]) is ("auroc" in there)
    assert exists(picai(scans, INTERVALS)["intervals"]["score"]) is ("auroc" in there)


@pytest.mark.parametrize(("num_with_nodules", "there"), [(3, False), (10, True)])
def test_of_a_cpm_the_scans_with_nodules_count(num_with_nodules, there):
    series = np.array([f"{i:02}" for i in range(NUM_SCANS)])
    nodules = Points(series[:num_with_nodules], np.zeros((num_with_nodules, 3)), np.full(num_with_nodules, 6.0))
    candidates = Points(series, np.zeros((NUM_SCANS, 3)), np.full(NUM_SCANS, 0.5))
    result = luna16(match_candidates(series.tolist(), nodules, candidates), INTERVALS)
    assert {exists(one["intervals"]["cpm"]) for one in result["readouts"].values()} == {there}


def test_of_dice_the_scans_with_hits_count():
    scans = [
        MaskedScan(str(i), np.array([0.9]), np.zeros(1, int), np.zeros(1, int), np.array([[0.5 if i < 3 else 0.0]]))
        for i in range(NUM_SCANS)
    ]
    intervals = mask_detection(scans, ("a",), INTERVALS)["intervals"]
    assert not exists(intervals["Dice_IoU_0.10"])
    assert exists(intervals["AR_IoU_0.10_MaxDet_100"])


@pytest.mark.parametrize("names", [("lesion", "lesion_cyst"), ("AP", "FROC"), ("mAP", "precision"), ("b", "a")])
@pytest.mark.parametrize("is_first_rare", [True, False])
def test_a_class_has_the_scans_of_its_own_whatever_it_is_called(names, is_first_rare):
    """One class is in 3 scans, the other in all: the names change no interval."""
    random = np.random.default_rng(0)
    rare = 0 if is_first_rare else 1
    found, wanted = [], []
    for i in range(NUM_SCANS):
        labels = np.array([rare, 1 - rare] if i < 3 else [1 - rare])
        low = 100.0 * np.arange(len(labels))[:, None] + np.zeros(3)
        boxes = np.concatenate([low, low + 10], axis=1)
        shifted = boxes + random.uniform(-5, 5, (len(labels), 1))
        wanted.append(TargetCase(str(i), boxes, labels))
        found.append(PredictedCase(str(i), shifted, random.random(len(labels)), labels))
    boxes, centers = evaluate(found, wanted, names), center(found, wanted, names, resampling=INTERVALS)
    scans = [
        MaskedScan(one.case, one.scores, one.labels, one.labels, np.eye(len(one.scores)) * random.uniform(0.2, 0.9))
        for one in found
    ]
    masks = mask_detection(scans, names, INTERVALS)
    for result, key in ((boxes, "AP_IoU_0.10_MaxDet_100"), (centers, "AP"), (masks, "AP_IoU_0.10_MaxDet_100")):
        intervals = result["intervals"]
        assert exists(intervals[key])
        assert not exists(intervals[f"{names[rare]}_{key}"])
        assert exists(intervals[f"{names[1 - rare]}_{key}"])
    assert exists(boxes["intervals"]["FROC_score_IoU_0.10"])
    assert exists(centers["intervals"]["FROC_score"])
    assert exists(boxes["precision_recall"]["intervals"]["precision_IoU_0.10"][0])
