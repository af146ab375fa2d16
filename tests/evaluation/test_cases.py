from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import as_predicted_cases, predicted_case, target_case

BOX = [0, 0, 0, 2, 2, 2]
CLASSES = ["nodule", "mass"]


def test_empty_lists_are_a_scan_without_detections():
    case = predicted_case("a", [], [], [], CLASSES)
    assert case.boxes.shape == (0, 6)
    assert case.scores.shape == case.labels.shape == (0,)


def test_detections_of_a_detector_become_cases_named_by_position():
    found = Detections(torch.tensor([BOX]).bfloat16(), torch.tensor([0.5]), torch.tensor([1]))
    (case,) = as_predicted_cases([found], CLASSES)
    assert case.case == "0"
    assert case.boxes.tolist() == [BOX]
    assert case.boxes.dtype == np.float64
    assert case.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "said"),
    [
        ([BOX[:5]], [0.5], [0], r"'a'.*shape \(1, 5\), must be \(N, 6\)"),
        (BOX, [0.5], [0], r"shape \(6,\)"),
        ([BOX, [0, 0]], [0.5, 0.5], [0, 0], "boxes are not an array of numbers"),
        ([["0"] * 6], [0.5], [0], "boxes are not an array of numbers"),
        ([[0, 0, 0, 2, 2, None]], [0.5], [0], "boxes are not an array of numbers"),
        ([[0, 0, 0, 2, 2, float("nan")]], [0.5], [0], "box 0 .*finite"),
        ([BOX, [0, 3, 0, 2, 2, 2]], [0.5, 0.5], [0, 0], "case 'a': box 1 .*max corner lies below"),
        ([BOX], [1.5], [0], "score 0 is 1.5"),
        ([BOX], [-0.1], [0], "score 0 is -0.1"),
        ([BOX], [float("nan")], [0], "score 0 is nan"),
        ([BOX], [0.5, 0.5], [0], "1 boxes but scores"),
        ([BOX], [0.5], [], "1 boxes but labels"),
        ([BOX], [0.5], [2], "label 0 is 2, must be a whole number from 0 to 1"),
        ([BOX], [0.5], [-1], "label 0 is -1"),
        ([BOX], [0.5], [0.5], "label 0 is 0.5"),
        ([BOX], [0.5], [True], "labels are not an array of numbers"),
    ],
)
def test_a_malformed_prediction_is_named(boxes, scores, labels, said):
    with pytest.raises(UserError, match=said):
        predicted_case("a", boxes, scores, labels, CLASSES)


def test_a_malformed_target_is_named():
    with pytest.raises(UserError, match="targets of case 'b': box 0"):
        target_case("b", [[2, 2, 2, 0, 0, 0]], [0], CLASSES)
