from __future__ import annotations

import numpy as np

from medpretrain3d.data.grid import Grid
from medpretrain3d.inference.finished_cases import FinishedCases
from medpretrain3d.inference.inputs import ScanPath
from medpretrain3d.inference.prediction import Prediction


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


def test_a_damaged_finished_case_counts_as_none(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    finished = FinishedCases(tmp_path, {})
    (tmp_path / "a.json").write_text('{"identity": {}')
    assert finished.load(ScanPath(scan)) is None
