"""Boxes that are off along known axes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.tables import detection_table

CUBE = [0.0, 0, 0, 10, 10, 10]


def scored(*found: list[float]) -> dict:
    """Each detection in a scan of its own, beside the cube of edge 10."""
    predictions = [
        PredictedCase(str(scan), np.array([box]), np.array([0.9]), np.array([0])) for scan, box in enumerate(found)
    ]
    targets = [TargetCase(str(scan), np.array([CUBE]), np.array([0])) for scan in range(len(found))]
    return evaluate(predictions, targets, ["cord", "tumor"], num_bootstrap=0)


def test_a_box_that_is_off_along_one_axis_has_its_overlap_as_iou():
    fit = scored([0, 0, -5, 10, 10, 15])["box_fit"]
    assert fit["iou"] == 0.1
    assert fit["classes"]["cord"] == {
        "num_hits": 1,
        "median_iou": pytest.approx(0.5),
        "median_axis_iou": pytest.approx([1, 1, 0.5]),
        "median_face_error": pytest.approx([0, 0, 5]),
    }
    assert fit["classes"]["tumor"]["num_hits"] == 0
    assert np.isnan(fit["classes"]["tumor"]["median_iou"])


def test_medians_are_of_hits_alone_and_the_axes_make_up_the_iou():
    shifted = [2.0, 0, 0, 12, 10, 10]  # 8 of 12 along x
    wide = [
        0.0,
        -2,
        -5,
        10,
        12,
        15,
    ]  # 10 of 14 along y, 10 of 20 along z, and inside of nothing: the product is the IoU
    missed = [9.0, 9, 9, 19, 19, 19]
    fit = scored(shifted, wide, CUBE, missed)["box_fit"]["classes"]["cord"]
    assert fit["num_hits"] == 3
    assert fit["median_iou"] == pytest.approx(8 / 12)
    assert fit["median_axis_iou"] == pytest.approx([1, 1, 1])
    assert fit["median_face_error"] == pytest.approx([0, 0, 0])
    alone = scored(wide)["box_fit"]["classes"]["cord"]
    assert alone["median_iou"] == pytest.approx(np.prod(alone["median_axis_iou"])) == pytest.approx(10 / 14 / 2)


def test_the_table_says_it_in_eighty_columns():
    lines = detection_table(scored([0, 0, -5, 10, 10, 15]))
    (row,) = [line for line in lines if line.startswith("  cord") and "hits" in line]
    assert row.split() == ["cord", "1", "hits", "0.50", "1.00", "1.00", "0.50", "0", "0", "5"]
    assert all(len(line) <= 80 for line in lines)
    assert not [line for line in lines if line.startswith("  tumor")]
