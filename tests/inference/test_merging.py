from __future__ import annotations

import pytest
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.raw_detections import RawDetections, center_border_distance

PATCH, SHAPE = (10, 10, 10), (30, 10, 10)


def detections(boxes, scores, labels=None):
    labels = [0] * len(scores) if labels is None else labels
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6), torch.tensor(scores), torch.tensor(labels)
    )


def merged(raw_detections, **config):
    return merge_raw_detections(raw_detections, InferenceConfig(**config))


def test_depth_falls_to_the_faces_inside_the_volume_only():
    # A tile at D = 10 .. 20 of 30: both its D faces are inside, its H and W faces are the volume's own ends.
    boxes = torch.tensor(
        [[14.0, 0, 0, 16, 2, 2], [11.5, 4, 4, 13.5, 6, 6], [9, 4, 4, 11, 6, 6]]
    )  # D centres 15, 12.5, 10
    assert center_border_distance(boxes, (10, 0, 0), PATCH, SHAPE).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_the_border_weight_decides_between_a_deep_box_and_a_confident_one():
    # The same object at depth 1 with score 0.5 and at depth 0.2 with score 0.9; IoU 6 / 9.
    deep = RawDetections.in_tile(detections([[2, 2, 2, 8, 8, 8]], [0.5]), (10, 0, 0), PATCH, SHAPE)
    shallow = RawDetections.in_tile(detections([[6, 2, 2, 12, 8, 8]], [0.9]), (5, 0, 0), (16, 10, 10), SHAPE)
    both = RawDetections.cat([deep, shallow])
    both.border_distance = torch.tensor([1.0, 0.2])
    assert merged(both, border_weight=0.1).scores.tolist() == pytest.approx([0.5])  # 0.5 against 0.9 * 0.28
    assert merged(both, border_weight=1.0).scores.tolist() == pytest.approx([0.9])


def test_small_boxes_are_left_out_by_their_longest_edge_in_millimetres():
    boxes = [[0, 0, 0, 2, 1, 1], [4, 0, 0, 5, 3, 1], [8, 0, 0, 9, 1, 2]]  # at (3, 1, 2) mm: longest 6, 3 and 4 mm
    seen = RawDetections.in_tile(detections(boxes, [0.9, 0.8, 0.7]), (0, 0, 0), SHAPE, SHAPE)
    found = merge_raw_detections(seen, InferenceConfig(min_size_mm=4), spacing_mm=(3, 1, 2))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


def test_what_is_too_small_takes_no_place_among_the_most_that_are_returned():
    specks = [[2.0 * i, 0, 0, 2 * i + 1, 1, 1] for i in range(5)]
    seen = RawDetections.in_tile(detections([*specks, [0, 4, 4, 9, 9, 9]], [0.9] * 5 + [0.8]), (0, 0, 0), SHAPE, SHAPE)
    assert merged(seen, max_per_class=5).scores.tolist() == pytest.approx([0.9] * 5)
    assert merged(seen, max_per_class=5, min_size_mm=3).scores.tolist() == pytest.approx([0.8])


def test_points_are_left_out_for_no_size():
    seen = RawDetections.in_tile(detections([[2, 2, 2, 4, 4, 4]], [0.9]), (0, 0, 0), SHAPE, SHAPE, True)
    assert len(merged(seen, merge="distance", min_size_mm=3)) == 1


def test_a_tile_reports_in_voxels_of_the_volume_and_says_what_is_cut():
    seen = RawDetections.in_tile(
        detections([[0, 0, 0, 3, 4, 5], [4, 4, 4, 6, 10, 10]], [0.9, 0.8]), (10, 0, 0), PATCH, SHAPE
    )
    assert seen.detections.boxes.tolist() == [[10, 0, 0, 13, 4, 5], [14, 4, 4, 16, 10, 10]]
    assert seen.touches_border.tolist() == [True, False]  # the second ends where the volume does


def test_a_whole_box_beats_its_cut_copy_of_higher_score():
    whole = RawDetections.in_tile(detections([[3, 2, 2, 8, 7, 7]], [0.8]), (5, 0, 0), PATCH, SHAPE)  # D 8 .. 13
    cut = RawDetections.in_tile(detections([[8, 2, 2, 10, 7, 7]], [0.9]), (0, 0, 0), PATCH, SHAPE)  # D 8 .. 10
    found = merged(RawDetections.cat([cut, whole]))  # IoU 2 / 5 is above 0.3, so ranks decide
    assert found.boxes.tolist() == [[8, 2, 2, 13, 7, 7]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_a_cut_copy_goes_even_if_it_hardly_overlaps():
    whole = RawDetections.in_tile(detections([[3, 2, 2, 9, 7, 7]], [0.8]), (6, 0, 0), PATCH, SHAPE)  # D 9 .. 15
    cut = RawDetections.in_tile(detections([[9, 2, 2, 10, 7, 7]], [0.9]), (0, 0, 0), PATCH, SHAPE)  # D 9 .. 10, IoU 1/6
    assert merged(RawDetections.cat([cut, whole])).boxes.tolist() == [[9, 2, 2, 15, 7, 7]]


def test_an_object_that_fits_no_tile_is_joined_of_its_two_pieces():
    # The object fills D = 2 .. 14; tiles at 0 and 5 of size 10 see 2 .. 10 and 5 .. 14.
    first = RawDetections.in_tile(detections([[2, 2, 2, 10, 7, 7]], [0.8]), (0, 0, 0), PATCH, SHAPE)
    second = RawDetections.in_tile(detections([[0, 2, 2, 9, 7, 7]], [0.8]), (5, 0, 0), PATCH, SHAPE)
    found = merged(RawDetections.cat([first, second]), nms_iou=0.9)
    assert found.boxes.tolist() == [[2, 2, 2, 14, 7, 7]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_the_larger_of_two_pieces_is_kept_where_the_tiles_do_not_agree():
    # The second piece ends before the first one's tile does, so it cannot continue it: 2 .. 10 and 5 .. 8.
    first = RawDetections.in_tile(detections([[2, 2, 2, 10, 7, 7]], [0.8]), (0, 0, 0), PATCH, SHAPE)
    second = RawDetections.in_tile(detections([[0, 2, 2, 3, 7, 7]], [0.8]), (5, 0, 0), PATCH, SHAPE)
    assert merged(RawDetections.cat([first, second]), nms_iou=0.9).boxes.tolist() == [[2, 2, 2, 10, 7, 7]]


def test_an_object_nobody_saw_whole_is_kept():
    cut = RawDetections.in_tile(detections([[9, 2, 2, 10, 7, 7]], [0.9]), (0, 0, 0), PATCH, SHAPE)
    assert len(merged(cut)) == 1


def test_a_weak_whole_box_does_not_remove_a_strong_cut_one():
    noise = RawDetections.in_tile(detections([[1, 1, 1, 9, 9, 9]], [0.05]), (6, 0, 0), PATCH, SHAPE)
    cut = RawDetections.in_tile(detections([[7, 2, 2, 10, 7, 7]], [0.9]), (0, 0, 0), PATCH, SHAPE)
    assert len(merged(RawDetections.cat([noise, cut]))) == 2


def test_classes_are_merged_apart():
    box = [3, 2, 2, 8, 7, 7]
    seen = RawDetections.in_tile(detections([box, box, box], [0.9, 0.8, 0.7], [0, 1, 0]), (0, 0, 0), PATCH, SHAPE)
    found = merged(seen)
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_the_best_of_each_class_are_returned():
    boxes = [[2 * i, 0, 0, 2 * i + 1, 1, 1] for i in range(5)] * 2
    scores = [0.5, 0.6, 0.7, 0.8, 0.9, 0.45, 0.4, 0.35, 0.3, 0.25]
    seen = RawDetections.in_tile(detections(boxes, scores, [0] * 5 + [1] * 5), (0, 0, 0), SHAPE, SHAPE)
    found = merged(seen, max_per_class=2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.45, 0.4])
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_boxes_that_are_not_finite_or_empty_disappear():
    seen = RawDetections.in_tile(
        detections([[float("nan")] * 6, [3, 3, 3, 3, 5, 5], [1, 1, 1, 2, 2, 2]], [0.9, 0.9, 0.9]),
        (0, 0, 0),
        PATCH,
        SHAPE,
    )
    assert seen.detections.boxes.tolist() == [[1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap": 1.0},
        {"merge": "mean"},
        {"nms_iou": 1.5},
        {"score_threshold": -0.1},
        {"mirror_axes": (0, 0)},
        {"mirror_axes": (3,)},
        {"max_per_class": 0},
        {"border_weight": 0.0},
        {"min_size_mm": -1.0},
    ],
)
def test_choices_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        InferenceConfig(**wrong)


def test_views_are_all_combinations_of_the_axes():
    assert InferenceConfig(mirror_axes=[2, 0]).views == [(), (0,), (2,), (0, 2)]
