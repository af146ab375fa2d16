from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.case_level import area_under_precision_recall, area_under_roc
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.overlap import ScanOverlap, mask_iou, of_boxes, of_detection_map, of_instances
from medpretrain3d.evaluation.picai import match, picai
from medpretrain3d.evaluation.ribfrac import ribfrac

ONCE = Resampling(num_bootstrap=0)


def line(*values):
    return np.array(values).reshape(1, 1, -1)


def test_iou_of_instances_is_counted_in_voxels():
    found, wanted = line(3, 3, 0, 5, 5, 0), line(0, 1, 1, 2, 2, 2)
    # 3 and 1 share one voxel of three; 5 and 2 share two of three.
    assert mask_iou(found, wanted) == pytest.approx(np.array([[1 / 3, 0], [0, 2 / 3]]))
    assert mask_iou(found, line(*[0] * 6)).shape == (2, 0)
    assert mask_iou(line(*[1] * 6), line(*[1] * 6)).tolist() == [[1.0]]  # no background at all


def test_instances_get_their_scores_by_value():
    one = of_instances("s", line(7, 0, 3), {3: 0.2, 7: 0.9}, line(1, 1, 1))
    assert one.scores.tolist() == [0.2, 0.9]
    assert one.iou == pytest.approx(np.array([[1 / 3], [1 / 3]]))


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({3: 0.2}, "instance 7 of the mask has no score"),
        ({3: 0.2, 7: 0.9, 8: 0.1}, "score of instance 8, which the mask does not hold"),
        ({3: 0.2, 7: 1.9}, "score of instance 7 is 1.9"),
        ({3: float("nan"), 7: 0.9}, "score of instance 3 is nan"),
    ],
)
def test_scores_that_do_not_fit_the_mask_are_refused(scores, said):
    with pytest.raises(UserError, match=said):
        of_instances("s", line(7, 0, 3), scores, line(1, 1, 1))


def test_parts_of_a_detection_map_are_findings():
    one = of_detection_map("s", line(0.5, 0.5, 0, 0.9, 0), line(0, 1, 1, 0, 0))
    assert one.scores.tolist() == pytest.approx([0.5, 0.9])
    assert one.iou[:, 0] == pytest.approx([1 / 3, 0])
    with pytest.raises(UserError, match="2 values in 1 connected parts"):
        of_detection_map("s", line(0.5, 0.6), line(0, 1))
    with pytest.raises(UserError, match="outside"):
        of_detection_map("s", line(1.5, 0.0), line(0, 1))
    with pytest.raises(UserError, match="one grid"):
        of_detection_map("s", line(0.5, 0.5), line(0, 1, 1))


def test_boxes_can_stand_for_masks():
    box = np.array([[0.0, 0, 0, 2, 2, 2]])
    found = [PredictedCase("s", np.concatenate([box + 1, box]), np.array([0.4, 0.8]), np.zeros(2, int))]
    (one,) = of_boxes(found, [TargetCase("s", box, np.zeros(1, int))], ["fracture"])
    assert one.iou[:, 0] == pytest.approx([1 / 15, 1])
    with pytest.raises(UserError, match="2 classes"):
        of_boxes(found, [TargetCase("s", box, np.zeros(1, int))], ["a", "b"])


def test_ribfrac_by_hand():
    scans = [
        # First fracture found twice; an IoU of exactly 0.2 is a miss.
        ScanOverlap("a", np.array([0.9, 0.8, 0.7]), np.array([[0.5, 0.0], [0.6, 0.0], [0.0, 0.2]])),
        ScanOverlap("b", np.array([0.6]), np.array([[0.3]])),
        ScanOverlap("c", np.array([0.5]), np.zeros((1, 0))),
    ]
    result = ribfrac(scans, ONCE)
    # Hits at 0.9 and 0.6, false positives at 0.7 and 0.5, three fractures, three scans: the points (0, 0), (0, 1/3),
    # (1/3, 1/3), (1/3, 2/3), (2/3, 2/3). At 1/2 halfway from the lowest at 1/3 to 2/3, and 2/3 beyond.
    assert result["sensitivity"] == pytest.approx([1 / 2, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert (result["num_targets"], [row["num_hits"] for row in result["per_case"]]) == (3, [1, 1, 0])
    with pytest.raises(UserError, match="none of the 1 scans"):
        ribfrac(scans[2:], ONCE)


def test_ribfrac_thresholds_go_in_steps_of_a_hundredth():
    # 0.505 and 0.501 enter together at 0.50, to the point (1, 1). Apart they make (1, 0) and (1, 1), and at the rate 1
    # the lowest counts.
    apart = ScanOverlap("a", np.array([0.515, 0.501]), np.array([[0.0], [0.9]]))
    together = ScanOverlap("a", np.array([0.505, 0.501]), np.array([[0.0], [0.9]]))
    assert ribfrac([apart], ONCE)["sensitivity"][1] == pytest.approx(0, abs=1e-7)
    assert ribfrac([together], ONCE)["sensitivity"][1] == pytest.approx(1)


def test_ribfrac_is_0_below_the_first_operating_point():
    # The false positive of score 1 is there at every threshold: one per scan is the lowest rate.
    one = ScanOverlap("a", np.array([1.0, 0.9, 0.8]), np.array([[0.0], [0.9], [0.0]]))
    assert ribfrac([one], ONCE)["sensitivity"] == pytest.approx([0, 0, 1, 1, 1], abs=1e-7)


def of_the_challenges_script(scans):
    """Its arithmetic, point by point: the readings at the key rates."""
    points = []
    for step in np.arange(0, 1, 0.01):
        num_hits = num_false = 0
        for one in scans:
            kept = [row for row, score in zip(one.iou, one.scores, strict=True) if score >= step]
            right = [row for row in kept if len(row) and max(row) > 0.2]
            num_hits += len({int(np.argmax(row)) for row in right})
            num_false += len(kept) - len(right)
        num_targets = sum(one.num_targets for one in scans)
        points.append(((num_false + 1e-8) / (len(scans) + 1e-8), (num_hits + 1e-8) / (num_targets + 1e-8)))
    points.sort(key=lambda point: point[0])  # keeps the order of points of one rate
    readings = []
    for wanted in (0.5, 1, 2, 4, 8):
        below, above = [one for one in points if one[0] <= wanted], [one for one in points if one[0] >= wanted]
        if not below:
            readings.append(0.0)
        elif not above:
            readings.append(max(recall for _, recall in points))
        else:
            (rate_0, recall_0), (rate_1, recall_1) = below[-1], above[0]
            readings.append(recall_0 + (recall_1 - recall_0) * (wanted - rate_0) / (rate_1 - rate_0 + 1e-8))
    return readings


@pytest.mark.parametrize("seed", range(4))
def test_ribfrac_reads_the_curve_as_the_challenges_script_does(seed):
    """On 50 small sets a seed: few scans, so that rates meet the key rates; scores with ties and up to 1."""
    rng = np.random.default_rng(seed)
    num_sets = 0
    while num_sets < 50:
        scans = []
        for name in range(rng.integers(1, 6)):
            shape = (rng.integers(0, 8), rng.integers(0, 4))
            iou = rng.uniform(0, 0.6, shape) * (rng.uniform(size=shape) < 0.5)
            scores = rng.uniform(size=shape[0]).round((1, 2, 3, 9)[seed])
            scans.append(ScanOverlap(str(name), scores, iou))
        if any(one.num_targets for one in scans):
            num_sets += 1
            result = ribfrac(scans, ONCE)
            assert result["sensitivity"] == pytest.approx(of_the_challenges_script(scans), abs=2e-8)
            assert result["froc_score"] == pytest.approx(np.mean(of_the_challenges_script(scans)), abs=2e-8)


def test_ribfrac_of_resampled_scans_is_that_of_the_scans_repeated():
    scans = [
        ScanOverlap("a", np.array([0.9, 0.8, 0.3]), np.array([[0.5], [0.0], [0.0]])),
        ScanOverlap("b", np.array([0.7]), np.zeros((1, 0))),
    ]
    seen = {}

    class Watched(Resampling):
        def estimate(self, metrics, patients, num_behind):
            seen.update(metrics(np.array([[2.0, 1], [0, 3]])))
            return super().estimate(metrics, patients, num_behind)

    ribfrac(scans, Watched(num_bootstrap=0))
    repeated = ribfrac([scans[0], scans[0], scans[1]], ONCE)["sensitivity"]
    assert seen["sensitivity"][0] == pytest.approx(repeated)
    assert np.isnan(seen["sensitivity"][1]).all()  # no fracture in this replicate


def test_picai_by_hand():
    scans = [
        # Two findings on the one lesion: the closer is right, the other neither.
        ScanOverlap("a", np.array([0.9, 0.8, 0.3]), np.array([[0.2], [0.6], [0.05]])),
        ScanOverlap("b", np.array([0.85]), np.zeros((1, 0))),
        ScanOverlap("c", np.zeros(0), np.zeros((0, 1))),
    ]
    result = picai(scans, ONCE)
    # 0.85 wrong, 0.8 right, 0.3 wrong; two lesions: half the recall at precision 1/2.
    assert result["AP"] == pytest.approx(1 / 4)
    # Highest scores: 0.9 and 0 of scans with lesions, 0.85 without: one of two pairs in order.
    assert result["auroc"] == pytest.approx(1 / 2)
    assert result["score"] == pytest.approx(3 / 8)


@settings(max_examples=60)
@given(
    arrays.arrays(
        float, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.sampled_from([0, 0.05, 0.1, 0.4, 0.7])
    )
)
def test_picai_pairs_as_many_as_possible(iou):
    num_findings = len(iou)
    hits = match(ScanOverlap("s", np.full(num_findings, 0.5), iou)).is_hit.sum()
    padded = np.concatenate([iou, np.zeros((num_findings, num_findings))], axis=1)
    places = itertools.permutations(range(padded.shape[1]), num_findings)
    assert hits == max((padded[range(num_findings), list(one)] >= 0.1).sum() for one in places)


def test_areas_by_hand():
    score, positive, once = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]), np.ones((1, 4))
    # Pairs: 0.9 above both, 0.5 ties with 0.5 and is above 0.1.
    assert area_under_roc(score, positive, once)[0] == pytest.approx(3.5 / 4)
    # Precision 1 at recall 1/2; 2/3 at recall 1, where the tie enters together.
    assert area_under_precision_recall(score, positive, once)[0] == pytest.approx(1 / 2 + 1 / 3)
    assert np.isnan(area_under_roc(score[:2], positive[:2], once[:, :2]))[0]
    assert np.isnan(area_under_precision_recall(score[2:], positive[2:], once[:, 2:]))[0]


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.7]), st.booleans(), st.integers(0, 3)), min_size=2, max_size=8))
def test_a_scan_of_weight_two_is_two_scans(rows):
    score, positive, weight = (np.array([row[part] for row in rows]) for part in range(3))
    again = np.repeat(np.arange(len(rows)), weight)
    for area in (area_under_roc, area_under_precision_recall):
        np.testing.assert_allclose(
            area(score, positive, weight[None].astype(float)),
            area(score[again], positive[again], np.ones((1, len(again)))),
        )
