from __future__ import annotations

import numpy as np

from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.matching import (
    Matches,
    greedy_match,
    intersection_over_union,
    join_scans,
    lies_in_any,
    match_scans,
    pool_classes,
    split_scans,
)

IOUS = np.array([0.1, 0.5])


def along_w(*intervals):
    """Boxes of cross-section 1 whose IoU is that of their intervals along W."""
    return np.array([[0, 0, low, 1, 1, high] for low, high in intervals], dtype=float)


def match_boxes(found, wanted, ious):
    return greedy_match(intersection_over_union(found, wanted), ious) >= 0


def test_each_object_is_hit_once_by_its_best_scored_detection():
    found = along_w((0, 4), (0, 4), (10, 12))
    assert match_boxes(found, along_w((0, 4)), IOUS).tolist() == [[True, False, False]] * 2


def test_a_detection_whose_object_is_taken_falls_back_on_the_next_best():
    # IoU of the second detection: 1 with the first object (taken), 2/6 with the second.
    found = along_w((0, 4), (0, 4))
    assert match_boxes(found, along_w((0, 4), (2, 6)), IOUS).tolist() == [[True, True], [True, False]]


def test_an_iou_equal_to_the_threshold_is_a_hit():
    # 1 shared voxel of 2; 1 of 10.
    assert match_boxes(along_w((0, 1)), along_w((0, 2)), IOUS)[1].all()
    assert match_boxes(along_w((0, 1)), along_w((0, 10)), IOUS)[0].all()
    assert not match_boxes(along_w((0, 1)), along_w((0, 10.1)), IOUS).any()


def test_thin_boxes_far_from_the_origin_keep_their_overlap():
    # In float32 an interval of 1e-4 at 1500 vanishes.
    assert match_boxes(along_w((1500, 1500.0001)), along_w((1500, 1500.0001)), np.array([0.99])).all()


def test_a_hit_needs_the_class():
    box = along_w((0, 4))
    wanted = [TargetCase("a", box, np.array([0]))]
    found = [PredictedCase("a", np.repeat(box, 2, 0), np.array([0.9, 0.4]), np.array([1, 0]))]
    first, second = match_scans(found, wanted, 2, IOUS)
    assert first.is_hit.tolist() == [[True]] * 2
    assert second.is_hit.tolist() == [[False]] * 2
    pooled = pool_classes([first, second])
    assert pooled.num_targets.tolist() == [1]
    assert pooled.is_hit.sum() == 2


def test_only_the_best_detections_per_class_count():
    wanted = [TargetCase("a", along_w((0, 4)), np.array([0]))]
    found = [PredictedCase("a", along_w((8, 9), (8, 9), (0, 4)), np.array([0.9, 0.8, 0.7]), np.zeros(3, int))]
    assert not match_scans(found, wanted, 1, IOUS, max_detections=2)[0].is_hit.any()
    assert match_scans(found, wanted, 1, IOUS, max_detections=3)[0].is_hit.any()


def test_counts_before_each_position():
    matches = Matches(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), np.zeros((1, 3), bool), np.array([0, 0, 0]))
    positions, every = np.arange(4), np.ones(3, bool)
    assert matches.counts_before(np.eye(3), every, positions).tolist() == [[0, 0, 1, 1], [0, 1, 1, 2], [0, 0, 0, 0]]
    weights, chosen = np.array([[5.0, 2.0, 7.0]]), np.array([True, True, False])
    assert matches.counts_before(weights, chosen, positions).tolist() == [[0, 2, 7, 7]]


def test_scans_are_split_as_they_were_joined():
    matches = Matches(
        np.array([0.9, 0.8, 0.7]),
        np.array([2, 0, 2]),
        np.array([[True, False, False], [False, False, True]]),
        np.array([1, 0, 3, 2]),
        np.array([False, True, False]),
        np.array([4, 5, 6]),
        np.array([[7, -1, -1], [-1, -1, 8]]),
    )
    assert [places.tolist() for places in matches.places_by_scan()] == [[1], [], [0, 2], []]
    joined, by_scan = join_scans([*split_scans(matches)]), matches[np.array([1, 0, 2])]
    for one, other in zip(vars(joined).values(), vars(by_scan).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_object_that_is_hit_is_known():
    wanted = [TargetCase("a", along_w((0, 4), (10, 14), (20, 24)), np.array([1, 0, 1]))]
    found = [PredictedCase("a", along_w((20, 24), (0, 4), (10, 14)), np.array([0.3, 0.9, 0.8]), np.array([1, 1, 1]))]
    (_, second) = match_scans(found, wanted, 2, IOUS)
    assert second.detection.tolist() == [1, 2, 0]  # by falling score
    assert second.target.tolist() == [[0, -1, 2]] * 2


def test_a_box_lies_in_a_region_when_its_centre_does():
    region = along_w((4, 8))
    assert lies_in_any(along_w((2, 6), (5, 20), (5.5, 6.5), (1, 6)), region).tolist() == [True, False, True, False]
    assert not lies_in_any(along_w((4, 8)), None).any()
    assert not lies_in_any(along_w((4, 8)), np.zeros((0, 6))).any()
