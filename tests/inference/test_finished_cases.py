from __future__ import annotations

import json

import numpy as np

from medpretrain3d.inference.finished_cases import FinishedCases
from medpretrain3d.inference.inputs import ScanPath
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.coco import predictions_coco
from medpretrain3d.inference.writers.overlay import box_map
from medpretrain3d.inference.writers.slicer import markups_json
from medpretrain3d.inference.writers.table import predictions_csv
from medpretrain3d.store.grid import Grid


def prediction():
    box_vox = np.array([[1.0, 2, 3, 2, 4, 7]])
    grid = Grid((4, 5, 8), np.eye(4))
    scores, labels = np.full(1, 0.1, np.float32), np.ones(1, np.int64)
    return Prediction("a", grid, box_vox, grid.boxes_to_lps_mm(box_vox), scores, labels, "a.nii.gz")


def test_a_finished_case_is_reused_for_the_same_scan_and_choices_only(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    finished = FinishedCases(tmp_path / "cases", {"bundle_sha256": "1", "mirror_axes": (0, 1)})
    assert finished.load(ScanPath(scan)) is None
    finished.save(prediction(), ScanPath(scan))
    same = FinishedCases(tmp_path / "cases", {"bundle_sha256": "1", "mirror_axes": (0, 1)})
    assert same.load(ScanPath(scan)).to_json() == prediction().to_json()
    assert same.load(ScanPath(scan)).file == "a.nii.gz"
    for other in ({"bundle_sha256": "1", "mirror_axes": ()}, {"bundle_sha256": "2", "mirror_axes": (0, 1)}):
        assert FinishedCases(tmp_path / "cases", other).load(ScanPath(scan)) is None
    scan.write_bytes(b"two")
    assert same.load(ScanPath(scan)) is None


def test_a_prediction_read_back_is_the_same_in_every_form(tmp_path):
    random = np.random.default_rng(0)
    low = random.uniform(0, 20, (200, 3))
    boxes_vox = np.concatenate([low, low + random.uniform(0.1, 9, (200, 3))], axis=1)
    affine = np.eye(4)
    affine[:3] = random.normal(0, 2, (3, 4))
    grid = Grid((30, 30, 30), affine)
    scores, labels = random.random(200).astype(np.float32), np.zeros(200, np.int64)
    made = Prediction("a", grid, boxes_vox, grid.boxes_to_lps_mm(boxes_vox), scores, labels, "a.nii.gz")
    read = Prediction.from_json(json.loads(json.dumps(made.to_json())), "a.nii.gz")
    for form in (predictions_csv, predictions_coco):
        assert form(["x"], [read]) == form(["x"], [made])
    assert markups_json(["x"], read) == markups_json(["x"], made)
    np.testing.assert_array_equal(box_map(read), box_map(made))
    np.testing.assert_allclose(made.boxes_vox, boxes_vox, atol=0.51e-4)


def test_a_damaged_finished_case_counts_as_none(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    finished = FinishedCases(tmp_path, {})
    (tmp_path / "a.json").write_text('{"identity": {}')
    assert finished.load(ScanPath(scan)) is None
