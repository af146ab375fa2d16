"""Boxes that are off along known axes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.scoring import CaseResult
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.tables import detection_table
from medpretrain3d.store.grid import Grid

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
    wide = [0.0, -2, -5, 10, 12, 15]  # 10 of 14 along y, 10 of 20 along z
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


@pytest.mark.parametrize("angle", [0, 20])
def test_axes_are_those_of_the_patient_whatever_the_order_of_the_voxels(angle):
    """An object that is long from head to foot, in a scan whose first axis runs there; found too short by a third."""
    a, b = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = np.array([[a, -b, 0], [b, a, 0], [0, 0, 1]])  # about z
    affine = np.eye(4)
    affine[:3, :3] = turned[:, [2, 1, 0]]  # array axes along z, y, x
    grid = Grid((64, 32, 32), affine)
    wanted, found = np.array([[10.0, 8, 8, 40, 16, 16]]), np.array([[10.0, 8, 8, 30, 16, 16]])
    predictions = [PredictedCase("a", grid.boxes_to_lps_mm(found), np.array([0.9]), np.array([0]), grid, found)]
    targets = [TargetCase("a", grid.boxes_to_lps_mm(wanted), np.array([0]), None, grid, wanted)]
    of_files = evaluate(predictions, targets, ["cord"], num_bootstrap=0)["box_fit"]["classes"]["cord"]
    assert of_files["median_axis_iou"] == pytest.approx([1, 1, 2 / 3])
    assert of_files["median_face_error"] == pytest.approx([0, 0, 5])


def test_a_run_scores_volumes_of_a_store_along_the_same_axes():
    wanted, found = np.array([[10.0, 8, 8, 40, 16, 16]]), np.array([[10.0, 8, 8, 30, 16, 16]])  # (S, P, L)
    predicted = PredictedCase("a", found, np.array([0.9]), np.array([0]))
    result = CaseResult(predicted, TargetCase("a", wanted, np.array([0]), wanted), (2.0, 1.0, 1.0)).in_mm()
    assert result.target.ignore is not None
    assert result.target.ignore.tolist() == result.target.boxes.tolist() == [[8, 8, 20, 16, 16, 80]]
    fit = evaluate([result.predicted], [result.target], ["cord"], num_bootstrap=0)["box_fit"]["classes"]["cord"]
    assert fit["median_axis_iou"] == pytest.approx([1, 1, 2 / 3])
    assert fit["median_face_error"] == pytest.approx([0, 0, 10])
