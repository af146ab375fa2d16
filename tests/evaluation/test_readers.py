"""Results of other programs score like the same boxes in our own JSON, on an oblique scan of unequal axes."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medpretrain3d.commands import compare, evaluate
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import read_predictions, read_targets
from medpretrain3d.evaluation.readers import ReadOptions, read_any_predictions
from medpretrain3d.store.grid import Grid

SHAPE = (23, 31, 17)
MAP, AP50 = "mAP_IoU_0.10_0.50_0.05_MaxDet_100", "AP_IoU_0.50_MaxDet_100"
# Found: one exactly, one a voxel too far along two axes, one where nothing is.
WANTED = np.array([[3.0, 4, 2, 8, 11, 5], [12, 20, 6, 20, 26, 15]])
FOUND = np.array([[3.0, 4, 2, 8, 11, 5], [13, 20, 7, 21, 26, 16], [1, 25, 1, 4, 30, 3]])
SCORES = [0.9, 0.6, 0.7]
LABELS = [0, 1, 1]


def oblique(degrees: float = 25, tilt: float = 15) -> Grid:
    """A grid whose axes are along none of LPS, mirrored, with three spacings."""
    a, b = math.radians(degrees), math.radians(tilt)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-0.7, 0.9, 2.5])
    affine[:3, 3] = (40, -17, 123)
    return Grid(SHAPE, affine)


GRID = oblique()


@dataclass
class Files:
    folder: Path
    targets: Path
    ours: Path


@pytest.fixture
def files(tmp_path) -> Files:
    place = {"grid": GRID.to_json()}
    wanted = {"boxes": GRID.boxes_to_lps_mm(WANTED).tolist(), "boxes_vox": WANTED.tolist(), "labels": [0, 1]}
    found = {"boxes": GRID.boxes_to_lps_mm(FOUND).tolist(), "boxes_vox": FOUND.tolist()}
    found |= {"labels": LABELS, "scores": SCORES}
    head = {"classes": ["cyst", "mass"], "frame": "lps_mm"}
    targets, ours = tmp_path / "targets.json", tmp_path / "ours.json"
    empty = {"case": "b", "boxes": [], "labels": []}
    targets.write_text(json.dumps({**head, "targets": [{"case": "a", **wanted, **place}, {**empty, **place}]}))
    ours.write_text(json.dumps({**head, "predictions": [{"case": "a", **found, **place}, {**empty, "scores": []}]}))
    (tmp_path / "theirs").mkdir()
    return Files(tmp_path / "theirs", targets, ours)


def numbers(files: Files, path: Path, *options: object) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    out = files.folder.parent / "out.json"
    words = ["--predictions", path, "--targets", files.targets, "-o", out, "--bootstrap", 0, *options]
    evaluate.run(parser.parse_args(list(map(str, words))))
    return json.loads(out.read_text())


def assert_like_ours(files: Files, path: Path, *options: object) -> dict[str, object]:
    """Every metric is that of our own JSON, and of what was read, converted."""
    converted = files.folder.parent / "converted.json"
    theirs, ours = numbers(files, path, "--converted", converted, *options), numbers(files, files.ours)
    again = numbers(files, converted)
    assert 0 < ours[AP50] < 1
    for key in (key for key, value in ours.items() if isinstance(value, float)):
        assert theirs[key] == pytest.approx(ours[key], abs=1e-9), key
        assert again[key] == pytest.approx(ours[key], abs=1e-9), key
    return theirs


def test_the_folder_that_predict_filled_is_read_by_its_own_file(files):
    shutil.copy(files.ours, files.folder / "predictions.json")
    (files.folder / "cases").mkdir()
    assert_like_ours(files, files.folder)


def test_a_file_of_a_newer_version_is_refused(files, tmp_path):
    newer = tmp_path / "newer.json"
    document = json.loads(files.ours.read_text())
    newer.write_text(json.dumps({"format": "medpretrain3d-predictions", "version": 9, **document}))
    with pytest.raises(UserError, match="is of version 9, this program reads 1"):
        numbers(files, newer)


def itk(boxes_vox: np.ndarray) -> np.ndarray:
    """Boxes in nnDetection's order: low and high along the array's first two axes, then the third; z, y, x."""
    i0, j0, k0, i1, j1, k1 = boxes_vox.reshape(-1, 6).T
    return np.stack([k0, j0, k1, j1, i0, i1], axis=1)


def nndetection(boxes_vox, scores=(), labels=(), grid: Grid | None = GRID, **more) -> dict[str, object]:
    content = {"pred_boxes": itk(np.array(boxes_vox, dtype=np.float32)), "restore": True}
    content |= {"pred_scores": np.array(scores, np.float32), "pred_labels": np.array(labels, np.float32)}
    if grid is not None:
        content |= {"original_size_of_raw_data": np.array(grid.shape[::-1]), "itk_spacing": grid.spacing_mm}
        content |= {"itk_origin": tuple(grid.affine_lps[:3, 3]), "itk_direction": tuple(grid.directions.ravel())}
    return content | more


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_boxes_of_nndetection(files, protocol):
    for case, content in {"a": nndetection(FOUND, SCORES, LABELS), "b": nndetection([])}.items():
        (files.folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    result = assert_like_ours(files, files.folder)
    assert "[min - 1, max + 1]" in result["notes"][0]


def test_boxes_of_nndetection_without_geometry_lie_in_the_grid_of_the_targets(files):
    np.savez(files.folder / "a_boxes.npz", **nndetection(FOUND, SCORES, LABELS, grid=None))
    np.savez_compressed(files.folder / "b_boxes.npz", **nndetection([]))
    assert_like_ours(files, files.folder)


def test_a_voxel_that_nndetection_adds_is_taken_away(files):
    grown = FOUND - [1, 1, 1, 0, 0, 0]
    for case, content in {"a": nndetection(grown, SCORES, LABELS), "b": nndetection([])}.items():
        (files.folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(content))
    assert_like_ours(files, files.folder, "--boxes", "nndetection")


def test_a_pickle_that_would_run_code_is_refused(files, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for case in "ab":
        (files.folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(nndetection(FOUND, SCORES, LABELS, x=Hostile())))
    with pytest.raises(UserError, match=r"a_boxes\.pkl: refused, because it holds more than arrays"):
        numbers(files, files.folder)
    assert not (tmp_path / "ran").exists()
    (files.folder / "b_boxes.pkl").write_bytes(pickle.dumps(nndetection([])))
    for content, message in (
        (nndetection(FOUND, SCORES, LABELS, restore=False), "restore is False"),
        ({"pred_boxes": np.zeros((1, 6))}, "has no pred_scores"),
        (nndetection(FOUND, SCORES, pred_labels=np.array(LABELS, object)), "an array of object"),
        (nndetection(FOUND, [9.0, 1, 1], LABELS), "score 0 is 9.0"),
        (nndetection(FOUND[:, [3, 4, 5, 0, 1, 2]], SCORES, LABELS), "max corner lies below"),
    ):
        (files.folder / "a_boxes.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=message):
            numbers(files, files.folder)
    for broken in (b"", b"\x80\x04", pickle.dumps(nndetection(FOUND))[:-9], b"cnumpy\ndtype\n(S'O8'\ntR."):
        (files.folder / "a_boxes.pkl").write_bytes(broken)
        with pytest.raises(UserError, match=r"a_boxes\.pkl: "):
            numbers(files, files.folder)


def in_mode(boxes: np.ndarray, mode: str) -> np.ndarray:
    """Corners as MONAI writes them."""
    x0, y0, z0, x1, y1, z1 = boxes.T
    edges = (x1 - x0, y1 - y0, z1 - z0)
    columns = {
        **{"xyzxyz": (x0, y0, z0, x1, y1, z1), "xxyyzz": (x0, x1, y0, y1, z0, z1)},
        **{"xyxyzz": (x0, y0, x1, y1, z0, z1), "xyzwhd": (x0, y0, z0, *edges)},
        "cccwhd": ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2, *edges),
    }
    return np.stack(columns[mode], axis=1)


@pytest.mark.parametrize(
    ("mode", "option"),
    [
        *[("xyzxyz", "xyzxyz"), ("xyzxyz", "StandardMode"), ("xyzxyz", "CornerCornerModeTypeA")],
        *[("xxyyzz", "CornerCornerModeTypeB"), ("xyxyzz", "CornerCornerModeTypeC"), ("xyzwhd", "CornerSizeMode")],
        *[("cccwhd", "CenterSizeMode"), ("cccwhd", "cccwhd")],
    ],
)
def test_boxes_of_monai_in_every_mode(files, mode, option):
    entries = [
        {"image": f"/data/{case}.nii.gz", "box": in_mode(boxes, mode).tolist(), "label": labels, "label_scores": scores}
        for case, boxes, labels, scores in (("b", FOUND[:0], [], []), ("a", FOUND, LABELS, SCORES))
    ]
    path = files.folder / "result.json"
    path.write_text(json.dumps({"validation": entries}))
    assert_like_ours(files, path, "--box-mode", option, "--box-frame", "voxels")
    tensors = [
        {"boxes": torch.tensor(in_mode(boxes, mode)), "labels": torch.tensor(labels), "labels_scores": torch.tensor(of)}
        for boxes, labels, of in ((FOUND, LABELS, SCORES), (FOUND[:0], [], []))
    ]
    torch.save(tensors, files.folder / "result.pt")
    result = assert_like_ours(files, files.folder / "result.pt", "--box-mode", option, "--box-frame", "voxels")
    assert "in the order of" in result["notes"][0]


@pytest.mark.parametrize("frame", ["lps_mm", "ras_mm"])
def test_boxes_of_monai_in_world_millimetres(files, frame):
    boxes = GRID.boxes_to_lps_mm(FOUND)
    if frame == "ras_mm":
        boxes = np.concatenate([boxes[:, 3:5] * -1, boxes[:, 2:3], boxes[:, :2] * -1, boxes[:, 5:]], axis=1)
    entries = [
        {"case": "a", "box": in_mode(boxes, "cccwhd").tolist(), "label": LABELS, "label_scores": SCORES},
        {"case": "b", "box": [], "label": [], "label_scores": []},
    ]
    path = files.folder / "result.json"
    path.write_text(json.dumps(entries))
    result = assert_like_ours(files, path, "--box-mode", "cccwhd", "--box-frame", frame)
    assert "hulls" in result["notes"][0]


def test_what_monai_does_not_say_has_to_be_said(files):
    path = files.folder / "result.json"
    path.write_text(json.dumps([{"case": "a", "box": FOUND.tolist(), "label": LABELS, "label_scores": SCORES}]))
    with pytest.raises(UserError, match="say --box-mode, one of xyzxyz"):
        numbers(files, path)
    with pytest.raises(UserError, match="say --box-frame, one of lps_mm"):
        numbers(files, path, "--box-mode", "xyzxyz")
    with pytest.raises(UserError, match="box mode 'zyx': wanted one of"):
        numbers(files, path, "--box-mode", "zyx", "--box-frame", "voxels")
    with pytest.raises(UserError, match=r"case 'b' of .* has no prediction"):
        numbers(files, path, "--box-mode", "xyzxyz", "--box-frame", "voxels")
    torch.save([argparse.Namespace()], files.folder / "result.pt")
    with pytest.raises(UserError, match=r"result\.pt: refused"):
        numbers(files, files.folder / "result.pt", "--box-mode", "xyzxyz", "--box-frame", "voxels")


def painted() -> tuple[np.ndarray, np.ndarray]:
    """A label map of `FOUND`, and probabilities whose highest value in each part is its score."""
    labels, probabilities = np.zeros(SHAPE, np.uint8), np.zeros((3, *SHAPE), np.float32)
    for (i0, j0, k0, i1, j1, k1), score, label in zip(FOUND.astype(int), SCORES, LABELS, strict=True):
        region = (slice(i0, i1), slice(j0, j1), slice(k0, k1))
        labels[region] = label + 1
        probabilities[(label + 1, *region)] = score - 0.05
        probabilities[label + 1, i0, j0, k0] = score
    probabilities[0] = 1 - probabilities.sum(axis=0)
    return labels, probabilities


def save_nifti(path: Path, voxels: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1]) @ GRID.affine_lps), path)


@pytest.mark.parametrize("kind", ["v2", "v1", "nifti"])
def test_components_of_nnunet_scored_by_their_probabilities(files, kind):
    labels, probabilities = painted()
    for case, there in (("a", True), ("b", False)):
        of_case = probabilities if there else np.stack([np.ones(SHAPE), *np.zeros((2, *SHAPE))]).astype(np.float32)
        as_itk = of_case.transpose(0, 3, 2, 1).astype(np.float16 if kind == "v1" else np.float32)
        if kind == "nifti":
            save_nifti(files.folder / f"{case}.nii.gz", np.moveaxis(of_case, 0, -1))
            continue
        save_nifti(files.folder / f"{case}.nii.gz", labels * there)
        if kind == "v2":
            np.savez_compressed(files.folder / f"{case}.npz", probabilities=as_itk)
        else:  # cut to the region that was not empty, as v1 does it
            np.savez_compressed(files.folder / f"{case}.npz", softmax=as_itk[:, 1:, 2:30, 1:22])
            box = [[1, SHAPE[2]], [2, 30], [1, 22]]
            (files.folder / f"{case}.pkl").write_bytes(pickle.dumps({"crop_bbox": box}))
    result = assert_like_ours(files, files.folder)
    assert not result["notes"]
    read = read_any_predictions(files.folder, read_targets(files.targets), ReadOptions())
    assert sorted(read.cases[0].scores) == pytest.approx(sorted(SCORES), abs=1e-3)
    mean = read_any_predictions(files.folder, read_targets(files.targets), ReadOptions(component_score="mean"))
    assert (mean.cases[0].scores < np.array(read.cases[0].scores)).all()


def test_label_maps_without_probabilities_and_names_of_values(files):
    labels, _ = painted()
    for case, there in (("a", 1), ("b", 0)):
        swapped = np.where(labels > 0, 4 - labels, 0).astype(np.uint8)  # mass is 2, cyst is 3; 1 is of no class
        swapped[0, 0, 0] = 1
        save_nifti(files.folder / f"{case}.nii.gz", swapped * there)
    with pytest.raises(UserError, match=r"value 3 stands for none of 2 classes; put nnU-Net's dataset\.json"):
        numbers(files, files.folder)
    names = {"background": 0, "liver": 1, "mass": 2, "cyst": 3}
    (files.folder / "dataset.json").write_text(json.dumps({"labels": names}))
    result = numbers(files, files.folder, "--min-voxels", 31)
    assert result["num_predictions"] == 2
    assert result["operating_points"][8]["num_false_positives"] == 0  # the small one is left out
    assert [note.split(":")[0].split(" of ")[0] for note in result["notes"]] == [
        "values",
        "1",
        "1 objects",
    ]
    (files.folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lung": 1}}))
    with pytest.raises(UserError, match="hold none of the classes"):
        numbers(files, files.folder)


def test_probabilities_of_another_order_of_axes_are_refused(files):
    labels, probabilities = painted()
    for case in "ab":
        save_nifti(files.folder / f"{case}.nii.gz", labels)
        np.savez(files.folder / f"{case}.npz", probabilities=probabilities.transpose(0, 3, 2, 1)[:, ::-1])
    with pytest.raises(UserError, match=r"a\.npz: only \d+% of the objects' voxels in a\.nii\.gz"):
        numbers(files, files.folder)
    np.savez(files.folder / "a.npz", probabilities=probabilities)
    with pytest.raises(UserError, match=r"no a\.pkl beside it names their region"):
        numbers(files, files.folder)
    np.savez(files.folder / "a.npz", probabilities=np.array([object()]))
    with pytest.raises(UserError, match=r"a\.npz: is no readable archive"):
        numbers(files, files.folder)


@pytest.mark.parametrize("inner", ["", "segmentations"])
def test_masks_of_totalsegmentator(files, inner):
    labels, _ = painted()
    for case, there in (("a", 1), ("b", 0)):
        folder = files.folder / case / inner
        folder.mkdir(parents=True)
        for value, name in enumerate(("cyst", "mass", "liver"), start=1):
            save_nifti(folder / f"{name}.nii.gz", (labels == value).astype(np.uint8) * there)
    first = nibabel.load(files.folder / "a" / inner / "mass.nii.gz")  # of one place, in another order
    nibabel.save(nibabel.as_closest_canonical(first), files.folder / "a" / inner / "mass.nii.gz")
    result = numbers(files, files.folder, "--objects", "components")
    assert result["num_predictions"] == 3
    read = read_any_predictions(files.folder, read_targets(files.targets))
    hull = [1, 20, 1, 21, 30, 16]  # of both parts of one structure
    assert read.cases[0].boxes_vox.tolist() == [FOUND[0].tolist(), hull]
    assert result["cyst_" + AP50] == 1


def test_two_programs_are_compared(files, capsys):
    for case, content in {"a": nndetection(FOUND, SCORES, LABELS), "b": nndetection([])}.items():
        (files.folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(content))
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    words = [files.ours, files.folder, "--targets", files.targets, "--bootstrap", "5"]
    assert compare.run(parser.parse_args(list(map(str, words)))) == 0
    assert "note: B: nnDetection makes boxes" in capsys.readouterr().out


def test_a_folder_of_no_known_program_and_targets_of_no_known_place_are_refused(files):
    with pytest.raises(UserError, match="holds no predictions of a known program"):
        numbers(files, files.folder)
    for case in "ab":
        (files.folder / f"{case}_boxes.pkl").write_bytes(pickle.dumps(nndetection([])))
    nowhere = {"classes": ["cyst", "mass"], "targets": [{"case": case, "boxes": [], "labels": []} for case in "ab"]}
    files.targets.write_text(json.dumps(nowhere))
    with pytest.raises(UserError, match="targets state no frame"):
        numbers(files, files.folder)
    assert read_predictions(files.ours).cases[0].case == "a"
