from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data import box_utils

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate, mean_average_precision
from medpretrain3d.evaluation.center_distance import center
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.detection import (
    MAP_KEY,
    ap_key,
    ar_key,
    froc_curve_key,
    froc_score_key,
    mean_ar_key,
)
from medpretrain3d.evaluation.matching import lies_in_any
from tests.oracles import oracle

CLASSES = ["a", "b"]


def random_data_set(seed, num_scans=6, num_classes=2):
    """Objects, and detections scattered around some of them and around nothing; scores differ."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for scan in range(num_scans):
        corner = rng.uniform(0, 50, (rng.integers(0, 4), 3))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 12, corner.shape)], axis=1)
        labels = rng.integers(0, num_classes, len(boxes))
        targets.append(TargetCase(str(scan), boxes, labels))
        shifted = boxes + rng.normal(0, 1, (len(boxes), 1))
        corner = rng.uniform(0, 50, (3, 3))
        found = np.concatenate([shifted, np.concatenate([corner, corner + 6], axis=1)])
        predictions.append(
            PredictedCase(
                str(scan),
                found,
                rng.uniform(0.01, 1, len(found)),
                np.concatenate([labels, rng.integers(0, num_classes, 3)]),
            )
        )
    return predictions, targets


def scores_of(result):
    """The numbers by key, without what depends on the order of the cases."""
    return {key: value for key, value in result.items() if "_IoU_" in key}


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=1e-9, err_msg=key)


@pytest.mark.parametrize("index", range(8))
def test_the_numbers_of_nndetection(index):
    data = oracle("detection_metrics")[index]
    predictions = [PredictedCase("", **one) for one in data["predictions"]]
    targets = [TargetCase("", **one) for one in data["targets"]]
    result = evaluate(predictions, targets, data["classes"], num_bootstrap=0)
    for key, expected in (data["expected"] | data["expected_froc"]).items():
        np.testing.assert_allclose(result[key], expected, rtol=0, atol=1e-6, err_msg=key)
    assert set(data["expected"]) | set(data["expected_froc"]) <= set(scores_of(result))


def test_perfect_predictions_score_1_everywhere():
    _, targets = random_data_set(0, num_scans=60)
    found = [PredictedCase(one.case, one.boxes, np.full(len(one.labels), 0.9), one.labels) for one in targets]
    result = evaluate(found, targets, CLASSES, num_bootstrap=20)
    for key, value in scores_of(result).items():
        if key.endswith(("MaxDet_1", "MaxDet_5")):
            continue  # scans with more objects than that cannot be found whole
        assert np.all(np.array(value) == pytest.approx(1)), key
        low, high = np.array(result["intervals"][key]).T
        assert np.all(high == 1), key
        assert np.all((low < 1) & (low > 0.6)), key  # all found in 12 of 12 scans: at least 0.735 of them are
    assert {one["score"] for one in result["per_case"]} == {1.0}


def test_tensors_of_a_detector_are_scored_as_cases():
    predictions, targets = random_data_set(1)
    found = [Detections(torch.tensor(p.boxes), torch.tensor(p.scores), torch.tensor(p.labels)) for p in predictions]
    wanted = [Targets(torch.tensor(t.boxes), torch.tensor(t.labels)) for t in targets]
    same(
        scores_of(evaluate(found, wanted, CLASSES, num_bootstrap=0)),
        scores_of(evaluate(predictions, targets, CLASSES, num_bootstrap=0)),
    )


def test_a_class_without_objects_is_left_out_of_the_mean_and_named():
    predictions, targets = random_data_set(2)
    result = evaluate(predictions, targets, CLASSES, num_bootstrap=10)
    padded = evaluate(predictions, targets, [*CLASSES, "absent"], num_bootstrap=10)
    assert padded["classes_without_targets"] == ["absent"]
    assert padded["num_targets"]["absent"] == 0
    assert padded[MAP_KEY] == result[MAP_KEY]
    assert padded["intervals"][MAP_KEY] == result["intervals"][MAP_KEY]
    assert np.isnan(padded[f"absent_{MAP_KEY}"])
    assert np.isnan(padded["intervals"][f"absent_{MAP_KEY}"]).all()


def test_nndetection_counts_a_class_without_objects_as_minus_1():
    predictions, targets = random_data_set(2)
    result = evaluate(predictions, targets, CLASSES, num_bootstrap=0)
    padded = evaluate(predictions, targets, [*CLASSES, "absent"], num_bootstrap=0, compat="nndetection")
    assert padded[f"absent_{ap_key(0.5)}"] == -1
    assert padded[MAP_KEY] == pytest.approx((2 * result[MAP_KEY] - 1) / 3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_numbers_of_monai(seed, num_classes):
    # With three classes the last one has detections and no object.
    predictions, targets = random_data_set(seed, num_scans=12)
    rng = np.random.default_rng(seed)
    predictions = [
        PredictedCase(p.case, p.boxes, p.scores, np.where(rng.random(len(p.labels)) < 0.2, num_classes - 1, p.labels))
        for p in predictions
    ]
    classes = ["a", "b", "c"][:num_classes]
    metric = COCOMetric(classes, verbose=False)
    matches = matching_batch(
        iou_fn=box_utils.box_iou,
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[p.boxes for p in predictions],
        pred_classes=[p.labels for p in predictions],
        pred_scores=[p.scores for p in predictions],
        gt_boxes=[t.boxes for t in targets],
        gt_classes=[t.labels for t in targets],
    )
    expected, _ = metric(matches)
    result = evaluate(predictions, targets, classes, num_bootstrap=0, compat="monai")
    for key, value in expected.items():
        assert result[key] == pytest.approx(value, abs=1e-6), key
    if num_classes == 3:
        assert expected[f"c_{mean_ar_key(100)}"] == -1
        assert np.isnan(evaluate(predictions, targets, classes, num_bootstrap=0)[f"c_{mean_ar_key(100)}"])


def test_recall_counts_the_best_detections_of_each_scan_only():
    boxes = np.array([[0.0, 0, 0, 4, 4, 4], [10, 10, 10, 14, 14, 14], [20, 20, 20, 24, 24, 24]])
    found = np.concatenate([boxes[:1] + 50, boxes])  # a false positive first
    target = [TargetCase("s", boxes, np.zeros(3, int))]
    result = evaluate([PredictedCase("s", found, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))], target, ["a"], 0)
    assert result[mean_ar_key(1)] == 0
    assert result[mean_ar_key(5)] == result[mean_ar_key(100)] == result[ar_key(0.9)] == 1


def test_a_detection_in_an_ignore_region_is_neither_right_nor_wrong():
    box, ignored, far = np.array([[[0.0, 0, 0, 4, 4, 4]], [[10, 10, 10, 16, 16, 16]], [[30, 30, 30, 34, 34, 34]]])
    found = PredictedCase("s", np.concatenate([ignored + 1, far, box]), np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    label = np.zeros(1, int)

    def score(ignore):
        return evaluate([found], [TargetCase("s", box, label, ignore)], ["a"], num_bootstrap=5)

    # Two false positives before the hit, or one.
    without, with_region = score(None), score(ignored)
    assert without[ap_key(0.1)] == pytest.approx(1 / 3)
    assert with_region[ap_key(0.1)] == pytest.approx(1 / 2)
    assert without[froc_curve_key(0.1)] == [0, 0, 0, 0, 1, 1, 1]
    assert with_region[froc_curve_key(0.1)] == [0, 0, 0, 1, 1, 1, 1]
    assert (without["num_ignore_regions"], with_region["num_ignore_regions"]) == (0, 1)
    at_half = with_region["operating_points"][4]
    assert (at_half["num_hits"], at_half["num_false_positives"], at_half["precision"]) == (1, 1, 0.5)
    # A region over the object itself takes nothing from the hit.
    assert score(box)[ap_key(0.1)] == pytest.approx(1 / 3)


@pytest.mark.parametrize("score", [evaluate, center])
def test_a_detection_in_an_ignore_region_has_no_part_in_the_score_of_its_scan(score):
    box, none = np.array([[0.0, 0, 0, 4, 4, 4]]), (np.zeros((0, 6)), np.zeros(0, int))
    targets = [
        TargetCase("ignored", *none, ignore=box),
        TargetCase("beside it", *none, ignore=box),
        TargetCase("hit within", box, np.zeros(1, int), ignore=box),
    ]
    found = [
        PredictedCase("ignored", box, np.array([0.95]), np.array([0])),
        PredictedCase("beside it", np.concatenate([box, box + 50]), np.array([0.95, 0.25]), np.zeros(2, int)),
        PredictedCase("hit within", box, np.array([0.75]), np.array([0])),
    ]
    rows = score(found, targets, ["a"])["per_case"]
    assert [row["max_score"] for row in rows] == [0, 0.25, 0.75]
    assert [row["score"] for row in rows] == [1, 0.75, 1]
    assert [row["num_predictions"] for row in rows] == [1, 2, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_ignoring_is_leaving_the_detection_out_where_it_hits_nothing(seed):
    predictions, targets = random_data_set(seed)
    region = np.array([[10.0, 10, 10, 40, 40, 40]])
    regions = [TargetCase(t.case, t.boxes, t.labels, region) for t in targets]
    ignoring = scores_of(evaluate(predictions, regions, CLASSES, num_bootstrap=0))
    scans = match_data_set(predictions, targets, CLASSES, [0.1])
    without = []
    for position, found in enumerate(predictions):
        hit = np.zeros(len(found.scores), bool)
        mine = scans.pooled.scan == position
        hit[scans.pooled.detection[mine]] = scans.pooled.is_hit[0, mine]
        keep = hit | ~lies_in_any(found.boxes, region)
        without.append(PredictedCase(found.case, found.boxes[keep], found.scores[keep], found.labels[keep]))
    expected = evaluate(without, targets, CLASSES, num_bootstrap=0)
    for key in (ap_key(0.1), froc_curve_key(0.1), ar_key(0.1)):
        np.testing.assert_allclose(ignoring[key], expected[key], err_msg=key)


def test_froc_is_nan_where_nothing_hits_and_0_where_nothing_was_found():
    target = [TargetCase("s", np.array([[0.0, 0, 0, 2, 2, 2]]), np.array([0]))]
    miss = [PredictedCase("s", np.array([[8.0, 8, 8, 9, 9, 9]]), np.array([0.5]), np.array([0]))]
    none = [PredictedCase("s", np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))]
    missed = evaluate(miss, target, ["a"], num_bootstrap=5)
    assert np.isnan(missed[froc_score_key(0.1)])
    assert np.isnan(missed[froc_curve_key(0.1)]).all()
    assert np.isnan(missed["intervals"][froc_score_key(0.1)]).all()
    empty = evaluate(none, target, ["a"], num_bootstrap=5)
    assert empty[froc_score_key(0.1)] == empty[MAP_KEY] == 0
    assert empty[froc_curve_key(0.1)] == [0.0] * 7


def test_score_of_each_case():
    box = np.array([[0.0, 0, 0, 4, 4, 4]])
    targets = [
        TargetCase("found", box, np.array([0])),
        TargetCase("after a false positive", box, np.array([0])),
        TargetCase("missed", box, np.array([0])),
        TargetCase("clean", np.zeros((0, 6)), np.zeros(0, int)),
        TargetCase("alarm", np.zeros((0, 6)), np.zeros(0, int)),
    ]
    far = box + 50
    found = [
        PredictedCase("found", box, np.array([0.9]), np.array([0])),
        PredictedCase("after a false positive", np.concatenate([far, box]), np.array([0.9, 0.8]), np.array([0, 0])),
        PredictedCase("missed", far, np.array([0.9]), np.array([0])),
        PredictedCase("clean", np.zeros((0, 6)), np.zeros(0), np.zeros(0, int)),
        PredictedCase("alarm", np.concatenate([far, box]), np.array([0.3, 0.7]), np.array([0, 0])),
    ]
    per_case = evaluate(found, targets, ["a"], num_bootstrap=0)["per_case"]
    assert [one["score"] for one in per_case] == pytest.approx([1, 1 / 2, 0, 1, 0.3])
    assert [one["num_hits"] for one in per_case] == [1, 1, 0, 0, 0]
    assert [one["num_targets"] for one in per_case] == [1, 1, 1, 0, 0]
    assert [one["case"] for one in per_case] == [one.case for one in targets]


def test_intervals_hold_the_estimate_and_are_none_below_ten_scans():
    predictions, targets = random_data_set(3, num_scans=50)
    result = evaluate(predictions, targets, CLASSES, num_bootstrap=200)
    assert set(result["intervals"]) == set(scores_of(result))
    for key in (MAP_KEY, ap_key(0.1), f"a_{ap_key(0.5)}", froc_score_key(0.1)):
        low, high = result["intervals"][key]
        assert low < result[key] < high
    curve, points = result[froc_curve_key(0.1)], result["intervals"][froc_curve_key(0.1)]
    assert len(curve) == len(points) == 7
    assert all(low <= value <= high for value, (low, high) in zip(curve, points, strict=True))

    few = evaluate(predictions[:9], targets[:9], CLASSES)
    assert np.isnan(few["intervals"][MAP_KEY]).all()


def test_a_class_in_few_of_many_scans_has_no_interval():
    predictions, targets = random_data_set(3, num_scans=50)
    rare = [
        TargetCase(one.case, one.boxes[one.labels != 0], one.labels[one.labels != 0]) if scan > 5 else one
        for scan, one in enumerate(targets)
    ]
    intervals = evaluate(predictions, rare, CLASSES)["intervals"]
    assert np.isnan(intervals[f"{CLASSES[0]}_{ap_key(0.1)}"]).all()
    assert not np.isnan(intervals[f"{CLASSES[1]}_{ap_key(0.1)}"]).any()


def test_the_intervals_are_not_drawn():
    predictions, targets = random_data_set(4)
    intervals = [evaluate(predictions, targets, CLASSES, 50, seed=seed)["intervals"] for seed in (1, 2)]
    np.testing.assert_equal(intervals[0], intervals[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.randoms())
def test_the_order_of_the_cases_changes_nothing(seed, random):
    predictions, targets = random_data_set(seed)
    order = list(range(len(targets)))
    random.shuffle(order)
    same(
        scores_of(evaluate(predictions, targets, CLASSES, num_bootstrap=0)),
        scores_of(evaluate([predictions[i] for i in order], [targets[i] for i in order], CLASSES, num_bootstrap=0)),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(0, 1))
def test_a_false_positive_of_lowest_score_never_raises_a_score(seed, scan, label):
    predictions, targets = random_data_set(seed)
    before = scores_of(evaluate(predictions, targets, CLASSES, num_bootstrap=0))
    one = predictions[scan]
    predictions[scan] = PredictedCase(
        one.case,
        np.concatenate([one.boxes, [[200.0, 200, 200, 209, 209, 209]]]),
        np.append(one.scores, 0.001),
        np.append(one.labels, label),
    )
    after = scores_of(evaluate(predictions, targets, CLASSES, num_bootstrap=0))
    for key, value in before.items():
        worse = np.array(after[key]) <= np.array(value) + 1e-12
        assert np.all(worse | np.isnan(value)), key


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])] * 3))
def test_scores_do_not_depend_on_the_spacing(seed, spacing):
    # Powers of two scale exactly, so no overlap crosses a threshold by rounding.
    predictions, targets = random_data_set(seed)
    scale = np.array([*spacing, *spacing])
    same(
        scores_of(evaluate(predictions, targets, CLASSES, num_bootstrap=0)),
        scores_of(
            evaluate(
                [PredictedCase(p.case, p.boxes * scale, p.scores, p.labels) for p in predictions],
                [TargetCase(t.case, t.boxes * scale, t.labels) for t in targets],
                CLASSES,
                num_bootstrap=0,
            )
        ),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_alone_is_that_of_the_evaluation(seed):
    predictions, targets = random_data_set(seed)
    alone = mean_average_precision(predictions, targets, CLASSES)
    assert alone == pytest.approx(evaluate(predictions, targets, CLASSES, num_bootstrap=0)[MAP_KEY], abs=1e-12)


def test_lengths_that_differ_and_no_case_are_errors():
    predictions, targets = random_data_set(5)
    with pytest.raises(UserError, match="5 predicted cases but 6 target cases"):
        evaluate(predictions[:-1], targets, CLASSES)
    with pytest.raises(UserError, match="no case"):
        evaluate([], [], CLASSES)


def test_recall_is_divided_as_in_nndetection_or_as_in_pycocotools():
    """1 of 25 objects reaches 4 of 101 levels in float32, as in nnDetection, and 5 in float64."""
    corner = np.arange(25.0)[:, None] * 10 * np.ones(3)
    boxes = np.concatenate([corner, corner + 5], axis=1)
    targets = [TargetCase("x", boxes, np.zeros(25, int))]
    found = [PredictedCase("x", boxes[:1], np.ones(1), np.zeros(1, int))]
    for compat, num_levels in (("none", 4), ("nndetection", 4), ("monai", 4), ("coco", 5)):
        result = evaluate(found, targets, ["a", "b"], num_bootstrap=0, compat=compat, size_edges_mm=[100])
        num_classes = 1 if compat in ("none", "coco") else 2
        of_absent = 0 if num_classes == 1 else -1
        assert result[f"a_{ap_key(0.5)}"] == pytest.approx(num_levels / 101)
        assert result[ap_key(0.5)] == pytest.approx((num_levels / 101 + of_absent) / num_classes)
        assert result["size_strata"][0]["AP_IoU_0.50"] == pytest.approx(num_levels / 101)
        assert result["per_case"][0]["score"] == pytest.approx(num_levels / 101)


def test_detections_beyond_the_limit_are_counted_and_said():
    boxes = np.tile([0.0, 0, 0, 2, 2, 2], (103, 1))
    found = [PredictedCase("x", boxes, np.linspace(1, 0, 103), np.zeros(103, int))]
    result = evaluate(found, [TargetCase("x", boxes[:1], np.zeros(1, int))], ["a"], num_bootstrap=0)
    assert result["num_predictions_over_limit"] == 3
    assert result["notes"] == ["3 detections beyond the best 100 of a scan and class do not count"]
