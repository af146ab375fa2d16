from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, CenterSampling, DistanceCoder, NearestPoints, PointGrid, RetinaNet
from medpretrain3d.detection.centerness import centerness, reaching
from medpretrain3d.detection.point_matching import object_levels
from tests.tiny_detectors import tiny_detector

SHAPES, STRIDES = [(6, 1, 1), (3, 1, 1)], [(4, 4, 4), (8, 8, 8)]


def cells(shapes=SHAPES, strides=STRIDES):
    grid = PointGrid(len(strides))
    return grid(shapes, strides, "cpu"), grid.per_level(shapes)


def test_distances_by_hand():
    cell = torch.tensor([[4.0, 0, 0, 8, 4, 4]])  # centre (6, 2, 2), stride 4
    box = torch.tensor([[4.0, 0, 1, 14, 4, 6]])  # sides 2, 2, 1 before and 8, 2, 4 behind
    expected = [math.log(side / 4) for side in (2, 2, 1, 8, 2, 4)]
    assert DistanceCoder().encode(box, cell)[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(DistanceCoder().decode(torch.tensor([expected]), cell), box)


def test_centerness_by_hand():
    box = torch.tensor([[0.0, 0, 0, 8, 8, 8]]).repeat(4, 1)
    points = torch.tensor([[4.0, 4, 4], [2, 4, 4], [2, 2, 2], [9, 4, 4]])
    assert centerness(points, box).tolist() == pytest.approx([1, (1 / 3) ** (1 / 3), 1 / 3, 0])


def test_a_point_beside_its_object_has_a_centerness_of_a_third_along_that_axis():
    box = torch.tensor([[0.0, 0, 0, 8, 8, 8]]).repeat(3, 1)
    points = torch.tensor([[9.0, 4, 4], [9, -3, 4], [2, 4, 4]])  # beside along one axis, along two, inside
    found = centerness(points, reaching(box, points)).tolist()
    assert found == pytest.approx([(1 / 3) ** (1 / 3), (1 / 9) ** (1 / 3), (1 / 3) ** (1 / 3)])


@pytest.mark.parametrize("matcher", [CenterSampling(), NearestPoints(num_points=1)])
def test_objects_that_hold_no_centre_of_a_cell_are_learned(matcher):
    torch.manual_seed(0)
    detector = tiny_detector(FCOS, matcher=matcher, first_level=2)
    stride = torch.tensor(detector.strides[0], dtype=torch.float32)
    low = 2 * stride + 0.55 * stride  # behind the centre of the third cell, before that of the fourth
    target = Targets(torch.cat([low, low + 0.4 * stride])[None], torch.zeros(1).long())
    losses = detector.losses(torch.randn(1, 1, 32, 32, 32), [target])
    assert losses["boxes"] > 0
    losses["boxes"].backward()
    assert detector.box_head.output.weight.grad.abs().sum() > 0


def test_points_near_the_centre_on_the_level_of_the_size():
    anchors, per_level = cells()
    # Points at 2, 6, ..., 22 and at 4, 12, 20. A box of 20 voxels around 12: the farthest side of the fine points
    # 6, 10, 14, 18 is 16, 12, 12, 16 voxels away, 4 to 3 cells; radius 1.5 cells is 6 voxels.
    box = torch.tensor([[2.0, 0, 0, 22, 4, 4]])
    assert CenterSampling()(box, anchors, per_level, 1).tolist() == [-1, -1, 0, 0, -1, -1, -1, -1, -1]
    assert CenterSampling(radius=2.0)(box, anchors, per_level, 1).tolist() == [-1, 0, 0, 0, 0, -1, -1, -1, -1]
    # With ranges of 2 cells the farthest side of 3 cells is too far for the fine level; 12 is 1.25 coarse cells away.
    assert CenterSampling(max_cells=2)(box, anchors, per_level, 1).tolist() == [-1] * 7 + [0, -1]


def test_a_point_in_two_objects_goes_to_the_smaller():
    anchors, per_level = cells([(3, 1, 1)], [(4, 4, 4)])
    boxes = torch.tensor([[4.0, 0, 0, 8, 4, 4], [0, 0, 0, 12, 4, 4]])
    assert CenterSampling()(boxes, anchors, per_level, 1).tolist() == [1, 0, 1]


def test_an_object_between_points_gets_the_nearest():
    anchors, per_level = cells()
    small = torch.tensor([[7.0, 1, 1, 8.5, 3, 3]])  # between the points 6 and 10
    assert CenterSampling()(small, anchors, per_level, 1).tolist() == [-1, 0, -1, -1, -1, -1, -1, -1, -1]


def test_the_nearest_points_are_positive_and_those_around_ignored():
    anchors, per_level = cells()
    box = torch.tensor([[9.0, 0, 0, 12, 4, 4]])  # centre 10.5: 10, 14, 6, 18 in this order
    matched = NearestPoints(num_points=2, ignore_ratio=1)(box, anchors, per_level, 1)
    assert matched.tolist() == [-1, -2, 0, 0, -2, -1, -1, -1, -1]


@pytest.mark.parametrize(("num_points", "ignore_ratio"), [(7, 26), (2, 0), (1, 0)])
def test_objects_with_one_nearest_point_each_have_a_point(num_points, ignore_ratio):
    grid, shapes = PointGrid(1), [(4, 4, 4)]
    cells = grid(shapes, [(4, 4, 4)], "cpu")
    targets = torch.tensor([[5.0, 5, 5, 7, 7, 7], [4, 4, 4, 8, 8, 8], [4.5, 5, 5, 8, 7, 7]])
    matched = NearestPoints(num_points, ignore_ratio)(targets, cells, grid.per_level(shapes), grid.per_cell)
    counts = matched[matched >= 0].bincount(minlength=3)
    assert counts.min() >= 1
    assert counts.sum() == max(num_points, 3)


def test_objects_belong_to_the_finest_level_that_is_coarse_enough():
    anchors, per_level = cells()
    boxes = torch.tensor([[0.0, 0, 0, 16, 4, 4], [0, 0, 0, 17, 4, 4], [0, 0, 0, 90, 4, 4]])
    assert object_levels(boxes, anchors, per_level, max_cells=2) == [(0, 6), (6, 9), (6, 9)]


@pytest.mark.parametrize("matcher", [CenterSampling(), NearestPoints()])
def test_no_objects_is_all_background(matcher):
    anchors, per_level = cells()
    assert matcher(torch.zeros(0, 6), anchors, per_level, 1).tolist() == [-1] * 9


def test_a_sure_class_off_centre_scores_less():
    model = tiny_detector(FCOS)
    logits, outputs = torch.zeros(2, 1), torch.zeros(2, 7)
    outputs[:, 6] = torch.tensor([20.0, 0.0])
    assert model.post_processing.scores(logits, outputs)[:, 0].tolist() == pytest.approx([math.sqrt(0.5), 0.5])


def test_the_points_of_a_level_are_the_centers_of_its_cells():
    cells = PointGrid(2)([(2, 1, 1), (1, 1, 1)], [(1, 2, 2), (2, 4, 4)], "cpu")
    assert cells.tolist() == [[0, 0, 0, 1, 2, 2], [1, 0, 0, 2, 2, 2], [0, 0, 0, 2, 4, 4]]


def test_it_has_no_anchors_and_is_no_retinanet():
    detector = tiny_detector(FCOS)
    assert isinstance(detector.anchors, PointGrid)
    assert not isinstance(detector, RetinaNet)


def test_untrained_boxes_are_two_cells_wide():
    model = tiny_detector(FCOS, nms_iou=1.0).eval()
    nn.init.zeros_(model.box_head.output.weight)
    boxes = model.detect(torch.zeros(1, 1, 16, 16, 16))[0].boxes
    extents = (boxes[:, 3:] - boxes[:, :3]).unique()
    assert extents.max() <= 16  # exp(0) cells to either side, stride 4 or 8
    assert 8 in extents.tolist()
