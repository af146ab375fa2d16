"""What dense predictions and queries are given, gathered by hand."""

from __future__ import annotations

import torch

from medpretrain3d.boxes import Targets
from medpretrain3d.detection.assignment import Assignment
from medpretrain3d.detection.set_matching import SetAssignment, UnitTargets, padded

BOXES = torch.arange(18.0).view(3, 6)
LABELS = torch.tensor([2, 0, 1])


def test_anchors_are_counted_through_the_batch_and_objects_keep_their_class_and_box():
    targets = [Targets(BOXES[:1], LABELS[:1]), Targets(BOXES[:0], LABELS[:0]), Targets(BOXES[1:], LABELS[1:])]
    anchors = torch.rand(2, 6)
    found = Assignment.of(torch.tensor([[-1, 0], [-1, -2], [1, -2]]), targets, anchors)
    assert (found.positive.tolist(), found.ignored.tolist()) == ([1, 4], [3, 5])
    assert found.class_of_anchors().tolist() == [-1, 2, -1, -2, 1, -2]
    assert found.boxes.equal(BOXES[[0, 2]])
    assert found.anchors.equal(anchors[[1, 0]])
    without = found.only(torch.tensor([True, False, True, True, True, True]))
    assert without.class_of_anchors().tolist() == [-1, -1, -1, -2, 1, -2]
    assert without.boxes.equal(BOXES[[2]])


def test_queries_of_all_layers_learn_their_objects_unless_they_are_not_finite():
    targets = [UnitTargets(BOXES[:1], LABELS[:1]), UnitTargets(BOXES[1:], LABELS[1:])]
    given = torch.tensor([[[0, -1], [-2, 1]], [[-1, 0], [0, 1]]])  # two layers of two images of two queries
    finite = torch.ones(2, 2, 2, dtype=torch.bool)
    finite[1, 1, 0] = False
    found = SetAssignment.of(given, finite, targets)
    assert found.labels.tolist() == [[[2, -1], [-2, 1]], [[-1, 2], [-2, 1]]]
    assert (found.positive.tolist(), found.counts) == ([0, 3, 5, 7], [2, 2])
    assert found.boxes.equal(BOXES[[0, 2, 0, 2]])
    inside = torch.ones(2, 2, 2, dtype=torch.bool)
    assert found.ignoring(inside).labels.tolist() == [[[2, -2], [-2, 1]], [[-2, 2], [-2, 1]]]


def test_objects_of_images_are_filled_up_to_the_most_of_one():
    found = padded([UnitTargets(BOXES[:1], LABELS[:1]), UnitTargets(BOXES[1:], LABELS[1:])], torch.device("cpu"))
    assert (found.boxes.shape, found.labels.tolist()) == ((2, 2, 6), [[2, 0], [0, 1]])
    assert found.boxes[1].equal(BOXES[1:])
    nothing = padded([UnitTargets(BOXES[:0], LABELS[:0])] * 2, torch.device("cpu"))
    assert nothing.boxes.shape == (2, 0, 6)
