from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.case_level import case_level
from medpretrain3d.evaluation.confusion import confusion
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.matching import Matches
from medpretrain3d.evaluation.operating_points import operating_points

ONCE, TWENTY = Resampling(num_bootstrap=0), Resampling(num_bootstrap=20)


def matches(*detections, num_targets):
    """Detections as (score, scan, is_hit)."""
    scores, scan, is_hit = (np.array([one[part] for one in detections]) for part in range(3))
    return Matches(scores.astype(float), scan.astype(int), is_hit.astype(bool)[None], np.array(num_targets))


# Two scans with two objects and one, one without.
FOUND = matches((0.9, 0, True), (0.6, 0, False), (0.5, 1, True), (0.5, 2, False), num_targets=[2, 1, 0])


def test_operating_points_by_hand():
    high, middle, low = operating_points(FOUND, TWENTY, (0.95, 0.55, 0.5))
    assert (high["num_hits"], high["num_false_positives"], high["sensitivity"]) == (0, 0, 0)
    assert np.isnan(high["precision"])
    assert np.isnan(high["intervals"]["precision"]).all()
    assert (middle["sensitivity"], middle["precision"]) == pytest.approx((1 / 3, 1 / 2))
    assert middle["false_positives_per_scan"] == pytest.approx(1 / 3)
    assert (low["sensitivity"], low["precision"]) == pytest.approx((2 / 3, 1 / 2))  # a score of 0.5 is at 0.5
    assert np.isnan(low["intervals"]["sensitivity"]).all()  # three scans hold no interval
    with pytest.raises(UserError, match=r"score 1.5: must lie in \[0, 1\]"):
        operating_points(FOUND, ONCE, (1.5,))


def test_calibration_by_hand():
    result = calibration(FOUND, TWENTY, num_bins=2)
    # All four lie in the upper bin: mean score 2.5 / 4, two hits of four.
    assert result["expected_calibration_error"] == pytest.approx(0.125)
    lower, upper = result["bins"]
    assert (lower["num_detections"], upper["num_detections"]) == (0, 4)
    assert np.isnan(lower["precision"])
    assert (upper["mean_score"], upper["precision"]) == pytest.approx((0.625, 0.5))
    certain = calibration(matches((1.0, 0, True), (0.0, 0, False), num_targets=[1]), ONCE)
    assert certain["expected_calibration_error"] == 0
    assert certain["bins"][9]["num_detections"] == certain["bins"][0]["num_detections"] == 1
    nothing = Matches(np.zeros(0), np.zeros(0, int), np.zeros((1, 0), bool), np.ones(1))
    assert np.isnan(calibration(nothing, ONCE)["expected_calibration_error"])


def test_case_level_by_hand():
    result = case_level(FOUND, TWENTY)
    # Highest scores 0.9 and 0.5 with objects, 0.5 without: one pair in order, one tie.
    assert result["auroc"] == pytest.approx(3 / 4)
    assert result["auprc"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert (result["num_positive"], result["num_negative"]) == (2, 1)
    assert np.isnan(case_level(matches((0.9, 0, True), num_targets=[1]), ONCE)["auroc"])
    # Called positive from 0.6 on: one of two with objects, none without; from 0.5 on: all three.
    strict, loose = case_level(FOUND, TWENTY, 0.6), case_level(FOUND, TWENTY, 0.5)
    assert (strict["sensitivity"], strict["specificity"]) == (0.5, 1.0)
    assert (loose["sensitivity"], loose["specificity"], loose["threshold"]) == (1.0, 0.0, 0.5)
    assert set(loose["intervals"]) == {"auroc", "auprc", "sensitivity", "specificity"}


def test_confusion_by_hand():
    first, second, third = ([0.0, 0, 0, 4, 4, 4], [10.0, 0, 0, 14, 4, 4], [20.0, 0, 0, 24, 4, 4])
    wanted = TargetCase("s", np.array([first, second, third]), np.array([0, 1, 1]), np.array([[30.0, 0, 0, 40, 9, 9]]))
    # A wrong class on the first, the right one behind it; the second missed; a low score on the third; one nowhere, and
    # one in a region that is to be ignored.
    boxes = np.array([first, first, third, [50.0, 0, 0, 54, 4, 4], [32.0, 0, 0, 36, 4, 4]])
    found = PredictedCase("s", boxes, np.array([0.9, 0.8, 0.4, 0.7, 0.6]), np.array([1, 0, 1, 0, 0]))
    scans = match_data_set([found], [wanted], ["cyst", "mass"], (0.1,))
    assert confusion(scans)["matrix"] == [[0, 1, 0], [0, 0, 2], [2, 0, 0]]
    assert confusion(scans, score=0.3)["matrix"] == [[0, 1, 0], [0, 1, 1], [2, 0, 0]]


def test_every_object_and_every_detection_counts_in_one_size_stratum():
    def cube(at, size):
        return [at, 0.0, 0, at + size, size, size]

    target = TargetCase("s", np.array([cube(0, 5), cube(100, 6), cube(200, 40)]), np.zeros(3, int))
    boxes = np.array([cube(0, 7), cube(100, 6), cube(300, 8), cube(400, 50)])
    found = PredictedCase("s", boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))
    strata = evaluate([found], [target], ["a"], num_bootstrap=5, size_edges_mm=(6, 30))["size_strata"]
    assert [(one["from_mm"], one["to_mm"]) for one in strata] == [(0, 6), (6, 30), (30, None)]
    assert [one["num_targets"] for one in strata] == [1, 1, 1]
    # The box of 7 mm counts with its object of 5 mm; the false ones of 8 and 50 mm count at their own size.
    assert [one["recall_IoU_0.10"] for one in strata] == [1, 1, 0]
    assert [one["AP_IoU_0.10"] for one in strata] == pytest.approx([1, 1, 0])
    assert [one["recall_IoU_0.50"] for one in strata] == [0, 1, 0]  # 125 of 343: a false positive of 7 mm
    assert [one["AP_IoU_0.50"] for one in strata] == pytest.approx([0, 1 / 2, 0])
    for edges in ((6, 6), (-1, 3), (float("nan"),)):
        with pytest.raises(UserError, match="must rise"):
            evaluate([found], [target], ["a"], num_bootstrap=0, size_edges_mm=edges)


def test_a_result_is_plain_data():
    target = TargetCase("s", np.zeros((0, 6)), np.zeros(0, int))
    found = PredictedCase("s", np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))
    result = evaluate([found], [target], ["a"], num_bootstrap=5, size_edges_mm=(6,))
    assert json.loads(json.dumps(result))["num_cases"] == 1
    assert np.isnan(result["case_level"]["auroc"])
