from __future__ import annotations

import csv
import dataclasses
import json

import nibabel
import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.inference.writers import Prediction, predictions_json, write_case, write_predictions
from medpretrain3d.inference.writers.coco import predictions_coco
from medpretrain3d.inference.writers.overlay import box_map
from medpretrain3d.inference.writers.slicer import markups_json
from medpretrain3d.store.grid import Grid

CLASSES = ("nodule", "node")
# The centre of voxel (i, j, k) lies at (2 i - 4, j + 8.75, k + 2.5) mm.
GRID = Grid((4, 5, 8), np.array([[2.0, 0, 0, -4], [0, 1, 0, 8.75], [0, 0, 1, 2.5], [0, 0, 0, 1]]))


def prediction(case="a", boxes=1):
    box_mm = np.array([[-3.0, 10.25, 5, -1, 12.25, 9]]).repeat(boxes, axis=0)
    box_vox = np.array([[1.0, 2, 3, 2, 4, 7]]).repeat(boxes, axis=0)
    scores, labels = np.full(boxes, 0.1, np.float32), np.ones(boxes, np.int64)
    return Prediction(case, GRID, box_vox, box_mm, scores, labels, f"{case}.nii.gz")


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
                "grid": {"shape": [4, 5, 8], "affine_lps": GRID.affine_lps.tolist()},
            }
        ],
    }


def test_an_entry_read_back_is_the_prediction():
    first = prediction(boxes=3)
    again = Prediction.from_json(json.loads(json.dumps(first.to_json())), first.file)
    for name in ("boxes_lps_mm", "boxes_vox", "scores", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert (again.case, again.file, again.grid) == (first.case, first.file, GRID)
    np.testing.assert_allclose(GRID.boxes_to_lps_mm(first.boxes_vox), first.boxes_lps_mm)


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


def oblique_grid(mirrored=False):
    """Turned 30 degrees about z, spacing (2, 1, 3) mm; left-handed where `mirrored`."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    axes = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, -1.0 if mirrored else 1.0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * [2, 1, 3], (10, -20, 30)
    return Grid((8, 9, 10), affine)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_slicer_roi_has_the_corners_of_the_voxel_box(mirrored):
    grid = oblique_grid(mirrored)
    box = np.array([[1.0, 2, 3, 4, 4, 8]])
    one = Prediction("a", grid, box, grid.boxes_to_lps_mm(box), np.array([0.875]), np.array([1]))
    (roi,) = markups_json(CLASSES, one)["markups"]
    axes = np.array(roi["orientation"]).reshape(3, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    assert roi["size"] == [6.0, 2.0, 15.0]
    assert (roi["type"], roi["roiType"], roi["coordinateSystem"]) == ("ROI", "Box", "LPS")
    assert roi["name"] == "node 0.88"
    signs = np.array([[a, b, c] for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
    of_roi = np.array(roi["center"]) + signs * roi["size"] @ axes.T
    picks = np.array([[i, j, k] for i in (1, 4) for j in (2, 4) for k in (3, 8)]) - 0.5
    of_box = picks @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]
    order = [tuple(np.round(corner, 3)) for corner in of_roi], [tuple(np.round(corner, 3)) for corner in of_box]
    assert set(order[0]) == set(order[1])


def test_the_overlay_fills_the_voxels_whose_centres_lie_in_a_box():
    boxes = np.array([[0.4, 1, 2, 1.6, 3, 4], [0, 0, 0, 4, 2, 3]])
    both = Prediction("a", GRID, boxes, GRID.boxes_to_lps_mm(boxes), np.array([0.9, 0.8]), np.array([1, 0]))
    expected = np.zeros(GRID.shape, np.uint8)
    expected[0:4, 0:2, 0:3] = 1
    expected[0:2, 1:3, 2:4] = 2  # 0.4 .. 1.6 holds the centres 0.5 and 1.5; the better box lies on top
    np.testing.assert_array_equal(box_map(both), expected)
    assert box_map(both).dtype == np.uint8
    many = dataclasses.replace(both, labels=np.array([255, 254]))
    assert np.unique(box_map(many)).tolist() == [0, 255, 256]


def test_the_coco_document_written_out():
    document = predictions_coco(CLASSES, [prediction(boxes=0), prediction("b")])
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert [document["images"][1][axis] for axis in ("width", "height", "depth")] == [4, 5, 8]
    assert document["categories"] == [{"id": 1, "name": "nodule"}, {"id": 2, "name": "node"}]
    assert document["annotations"] == [
        {
            "id": 1,
            "image_id": 2,
            "category_id": 2,
            "bbox": [1.0, 2.0, 3.0, 1.0, 2.0, 4.0],
            "area": 8.0,
            "iscrowd": 0,
            "score": 0.100000001,
        }
    ]


def test_files_of_a_scan_lie_in_its_own_grid(tmp_path):
    instances = np.zeros(GRID.shape, np.uint16)
    instances[1, 2:4, 3:7] = 1
    write_case(tmp_path, CLASSES, dataclasses.replace(prediction(), instances=instances), ["json", "nifti", "masks"])
    for folder, inside in {"nifti": 2, "masks": 1}.items():
        image = nibabel.load(tmp_path / folder / "a.nii.gz")
        np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ GRID.affine_lps)
        np.testing.assert_array_equal(np.asarray(image.dataobj), instances * inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "nifti"]  # json is a file of the whole run


def test_only_the_formats_asked_for_are_written(tmp_path):
    write_predictions(tmp_path / "new", CLASSES, [prediction()], ["coco", "slicer"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["predictions.coco.json"]


@pytest.mark.parametrize("case", ["../../x", "/tmp/x", "a/b", "a\\b", "", ".", "..", "a\0b", "a\nb", "x" * 250])
def test_no_case_id_leads_out_of_the_folder(tmp_path, case):
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    masked = dataclasses.replace(prediction(), case=case, instances=np.zeros(GRID.shape, np.uint16))
    for name in ("slicer", "nifti", "masks"):
        with pytest.raises(UserError, match="case id"):
            write_case(out, CLASSES, masked, [name])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "'a"])
def test_no_name_becomes_a_formula_in_the_table(tmp_path, name):
    one = dataclasses.replace(prediction(name), boxes_lps_mm=np.array([[-3.0, 10.25, 5, -1, 12.25, 9]]))
    write_predictions(tmp_path, (name, f"{name} b"), [one], ["csv"])
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert (row["case"], row["file"], row["label"]) == (f"'{name}", f"'{name}.nii.gz", f"'{name} b")
    assert row["x0_lps_mm"] == "-3.000"
