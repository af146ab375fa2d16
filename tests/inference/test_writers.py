from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.data.grid import Grid
from medpretrain3d.errors import UserError
from medpretrain3d.inference.finished_cases import FinishedCases
from medpretrain3d.inference.writers import Prediction, predictions_json, write_predictions

CLASSES = ("nodule", "node")


def prediction(case="a", boxes=1):
    box_mm = np.array([[-3.0, 10.25, 5, -1, 12.25, 9]]).repeat(boxes, axis=0)
    box_vox = np.array([[1.0, 2, 3, 2, 4, 7]]).repeat(boxes, axis=0)
    return Prediction(
        case, box_mm, box_vox, np.full(boxes, 0.1, np.float32), np.ones(boxes, np.int64), f"{case}.nii.gz"
    )


def test_the_document_written_out():
    assert predictions_json(CLASSES, [prediction()]) == {
        "format": "medpretrain3d-predictions",
        "version": 1,
        "classes": ["nodule", "node"],
        "frame": "lps_mm",
        "axes": "x0,y0,z0,x1,y1,z1",
        "predictions": [
            {
                "case": "a",
                "boxes": [[-3.0, 10.25, 5.0, -1.0, 12.25, 9.0]],
                "scores": [0.100000001],  # the float32 nearest to 0.1
                "labels": [1],
                "boxes_vox": [[1.0, 2.0, 3.0, 2.0, 4.0, 7.0]],
            }
        ],
    }


def test_an_entry_read_back_is_the_prediction():
    first = prediction(boxes=3)
    again = Prediction.from_json(json.loads(json.dumps(first.to_json())), first.file)
    for name in ("boxes_lps_mm", "boxes_vox", "scores", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.case, again.file) == (first.case, first.file)


def test_a_case_without_boxes_is_an_entry_too():
    entry = Prediction.from_json(prediction(boxes=0).to_json())
    assert entry.boxes_lps_mm.shape == entry.boxes_vox.shape == (0, 6)
    assert len(predictions_json(CLASSES, [entry])["predictions"]) == 1


def test_case_ids_must_differ():
    with pytest.raises(UserError, match="'a' is there more than once"):
        predictions_json(CLASSES, [prediction("a"), prediction("b"), prediction("a")])


def test_the_table_has_centre_and_size(tmp_path):
    write_predictions(tmp_path / "new", CLASSES, [prediction(), prediction("b", boxes=0)])
    with (tmp_path / "new" / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == "a"
    assert row["file"] == "a.nii.gz"
    assert row["label"] == "node"
    assert float(row["score"]) == pytest.approx(0.1)
    assert [float(row[f"center_{axis}_lps_mm"]) for axis in "xyz"] == [-2.0, 11.25, 7.0]
    assert [float(row[f"size_{axis}_mm"]) for axis in "xyz"] == [2.0, 2.0, 4.0]
    assert [float(row[f"{name}_lps_mm"]) for name in ("x0", "y0", "z0", "x1", "y1", "z1")] == [
        -3,
        10.25,
        5,
        -1,
        12.25,
        9,
    ]
    assert [float(row[f"{name}_file_vox"]) for name in ("i0", "j0", "k0", "i1", "j1", "k1")] == [1, 2, 3, 2, 4, 7]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["predictions.csv", "predictions.json"]


def test_boxes_are_cut_to_the_file_and_dropped_outside():
    grid = Grid(shape=(4, 5, 6), affine_lps=np.eye(4)[[2, 1, 0, 3]])
    found = Detections(
        torch.tensor([[1.0, 1, 1, 2, 2, 6.5], [3, 3, 6.1, 4, 4, 6.9]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    )
    result = Prediction.of("a", found, grid, grid)
    assert result.boxes_vox.tolist() == [[1, 1, 1, 2, 2, 6]]
    # Index (d, h, w) is (z, y, x) in mm here, and an edge e lies at e - 0.5.
    assert result.boxes_lps_mm.tolist() == [[0.5, 0.5, 0.5, 5.5, 1.5, 1.5]]
    assert result.scores.tolist() == pytest.approx([0.9])
    assert result.labels.tolist() == [0]


def test_a_finished_case_is_reused_for_the_same_scan_and_choices_only(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    finished = FinishedCases(tmp_path / "cases", {"bundle_sha256": "1", "mirror_axes": (0, 1)})
    assert finished.load("a", scan) is None
    finished.save(prediction(), scan)
    same = FinishedCases(tmp_path / "cases", {"bundle_sha256": "1", "mirror_axes": (0, 1)})
    assert same.load("a", scan).to_json() == prediction().to_json()
    assert same.load("a", scan).file == "a.nii.gz"
    assert FinishedCases(tmp_path / "cases", {"bundle_sha256": "1", "mirror_axes": ()}).load("a", scan) is None
    assert FinishedCases(tmp_path / "cases", {"bundle_sha256": "2", "mirror_axes": (0, 1)}).load("a", scan) is None
    scan.write_bytes(b"two")
    assert same.load("a", scan) is None


def test_a_damaged_finished_case_counts_as_none(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"one")
    finished = FinishedCases(tmp_path, {})
    (tmp_path / "a.json").write_text('{"identity": {}')
    assert finished.load("a", scan) is None
