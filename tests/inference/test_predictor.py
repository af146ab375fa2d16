from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medpretrain3d.data.volume import read_volume
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor, Preprocessing
from medpretrain3d.inference.predictor import case_id

AIR_HU, BLOB_HU = -1000, 512
BOXES = ((3, 4, 5, 7, 9, 8), (12, 15, 1, 17, 20, 6))  # in the file's array order, half-open


def turn(axis, degrees):
    """Rotation matrix about a world axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = [index for index in range(3) if index != axis]
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = cos, -sin, sin, cos
    return matrix


def affine_ras(matrix, origin_mm=(-30.0, 12.5, 100.0)):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = origin_mm
    return affine


AFFINES = {
    "ras": affine_ras(np.diag([2.0, 2, 2])),
    "lps": affine_ras(np.diag([-2.0, -2, 2])),
    "anisotropic": affine_ras(np.diag([-0.8, 0.8, 3])),
    "permuted": affine_ras(np.array([[0, 0, 1.5], [-2, 0, 0], [0, 1.0, 0]])),
    "head first to the left": affine_ras(np.array([[0, -1.0, 0], [0, 0, 2.0], [-3, 0, 0]])),
    "oblique": affine_ras(turn(0, 12) @ turn(2, -7) @ np.diag([-1.0, -1, 2.5])),
}


def write_scan(path, affine, boxes=BOXES, shape=(22, 24, 11)):
    array = np.full(shape, AIR_HU, dtype=np.int16)
    for i0, j0, k0, i1, j1, k1 in boxes:
        array[i0:i1, j0:j1, k0:k1] = BLOB_HU
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def bundle_of(detector, **preprocessing):
    wanted = Preprocessing(patch=preprocessing.pop("patch", (16, 16, 16)), **preprocessing)
    return Bundle(detector, ("dim", "bright"), wanted, InferenceConfig(), {}, "0" * 64)


def found(prediction):
    return tuple(sorted(map(tuple, np.round(prediction.boxes_vox, 3).tolist())))


@pytest.mark.parametrize("name", AFFINES)
def test_boxes_come_back_in_the_voxels_of_the_file(blob_finder, tmp_path, name):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES[name])
    assert found(Predictor(bundle_of(blob_finder)).predict_file(scan)) == BOXES


@pytest.mark.parametrize("name", AFFINES)
def test_boxes_come_back_from_a_grid_of_half_the_spacing(blob_finder, tmp_path, name):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES[name])
    spacing_mm = tuple(value / 2 for value in read_volume(scan).grid.spacing_mm)
    # A new voxel next to a face is 3/4 blob inside and 1/4 outside: bright and dark, so faces stay where they are.
    assert (
        found(Predictor(bundle_of(blob_finder, spacing_mm=spacing_mm, patch=(32, 32, 32))).predict_file(scan)) == BOXES
    )


def test_millimetres_by_hand(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["anisotropic"], boxes=[(3, 4, 5, 7, 9, 8)])
    prediction = Predictor(bundle_of(blob_finder)).predict_file(scan)
    # RAS: x = -30 - 0.8 i, y = 12.5 + 0.8 j, z = 100 + 3 k, at edges e - 0.5. LPS turns the signs of x and y.
    x = [30 + 0.8 * (3 - 0.5), 30 + 0.8 * (7 - 0.5)]
    y = [-12.5 - 0.8 * (9 - 0.5), -12.5 - 0.8 * (4 - 0.5)]
    z = [100 + 3 * (5 - 0.5), 100 + 3 * (8 - 0.5)]
    expected = [x[0], y[0], z[0], x[1], y[1], z[1]]
    assert prediction.boxes_lps_mm[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_patient_is_in_the_same_place_however_the_file_is_turned(blob_finder, tmp_path):
    array = np.full((20, 22, 24), AIR_HU, dtype=np.int16)
    array[3:7, 4:9, 5:11] = BLOB_HU
    image = nib.Nifti1Image(array, affine_ras(np.diag([2.0, 3, 4])))
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("SPL"))
    predictor = Predictor(bundle_of(blob_finder))
    boxes = []
    for name, scan in {"one.nii.gz": image, "two.nii.gz": turned}.items():
        nib.save(scan, tmp_path / name)
        boxes.append(predictor.predict_file(tmp_path / name).boxes_lps_mm)
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1e-4)
    assert boxes[0].shape == (1, 6)


def test_a_result_names_case_and_file_and_not_the_folder(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "lung_7_0000.nii.gz", AFFINES["lps"])
    prediction = Predictor(bundle_of(blob_finder)).predict_file(scan)
    assert (prediction.case, prediction.file) == ("lung_7", "lung_7_0000.nii.gz")


def test_case_ids():
    names = ["a.nii.gz", "a.nii", "a_0000.nii.gz", "a.b.nii.gz", "a_0001.nii.gz"]
    assert [case_id(Path("folder") / name) for name in names] == ["a", "a", "a", "a.b", "a_0001"]


def test_a_wrong_number_of_channels_is_refused(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"])
    with pytest.raises(UserError, match="has 1 channels, the bundle was trained on 2"):
        Predictor(bundle_of(blob_finder, num_channels=2)).predict_file(scan)


def test_choices_of_the_caller_come_before_the_bundle(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"])
    bundle = bundle_of(blob_finder)
    config = dataclasses.replace(bundle.inference, score_threshold=0.9)
    assert len(Predictor(bundle, config=config).predict_file(scan)) == 0
    assert len(Predictor(bundle).predict_file(scan)) == 2


def test_a_device_that_is_not_here(blob_finder):
    name = "nonsense" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"device '{name}' cannot be used here"):
        Predictor(bundle_of(blob_finder), device=name)
