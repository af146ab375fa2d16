from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate

BOX = np.array([[0.0, 0, 0, 10, 10, 10]])


def curves(num_scans: int, found: int) -> dict:
    """Each scan has one object; in the first `found` it is hit, and in every scan something better scored is not."""
    far = BOX + 50
    predictions = [
        PredictedCase(str(i), np.concatenate([far, BOX]), np.array([0.9, 0.8]), np.zeros(2, int))
        if i < found
        else PredictedCase(str(i), far, np.array([0.9]), np.zeros(1, int))
        for i in range(num_scans)
    ]
    targets = [TargetCase(str(i), BOX, np.zeros(1, int)) for i in range(num_scans)]
    return evaluate(predictions, targets, ["a"])


def test_precision_up_to_the_recall_that_is_reached_and_0_beyond():
    """6 of 12 objects found after 12 false detections: precision 6 / 18 up to recall 0.5."""
    result = curves(12, 6)["precision_recall"]
    assert result["recall"] == pytest.approx(np.linspace(0, 1, 21))
    assert result["precision_IoU_0.10"] == pytest.approx([1 / 3] * 11 + [0] * 10)
    low, high = np.array(result["intervals"]["precision_IoU_0.10"])[5]
    assert 0 <= low < 1 / 3 < high <= 1


def test_its_mean_height_is_the_average_precision():
    result = curves(12, 12)
    assert np.mean(result["precision_recall"]["precision_IoU_0.50"]) == pytest.approx(result["AP_IoU_0.50_MaxDet_100"])


def test_few_scans_have_no_interval_and_no_objects_no_curve():
    assert np.isnan(curves(3, 3)["precision_recall"]["intervals"]["precision_IoU_0.10"]).all()
    target = TargetCase("s", np.zeros((0, 6)), np.zeros(0, int))
    empty = evaluate([PredictedCase("s", BOX, np.array([0.9]), np.zeros(1, int))], [target], ["a"])
    assert np.isnan(empty["precision_recall"]["precision_IoU_0.10"]).all()
