from __future__ import annotations

import dataclasses
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import read_volume

AIR_HU, BLOB_HU = -1000, 512
PICKS = tuple(itertools.product((True, False), repeat=3))
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


def test_a_wrong_number_of_channels_is_refused(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"])
    with pytest.raises(UserError, match="has 1 channels, the bundle was trained on 2"):
        Predictor(bundle_of(blob_finder, num_channels=2)).predict_file(scan)


def test_scans_of_another_unit_are_refused_whatever_they_come_from(blob_finder, tmp_path):
    (tmp_path / "raw").mkdir()
    write_scan(tmp_path / "raw" / "scan.nii.gz", AFFINES["lps"])
    prepare(tmp_path / "raw", tmp_path / "store", PrepareOptions(unit="any"))
    mr = Store(tmp_path / "store").case("scan")
    ct = read_volume(tmp_path / "raw" / "scan.nii.gz")
    trained_on_ct, trained_on_mr = Predictor(bundle_of(blob_finder)), Predictor(bundle_of(blob_finder, unit="any"))
    for scan in (mr, read_volume(tmp_path / "raw" / "scan.nii.gz", "any")):
        for look in (trained_on_ct.predict, trained_on_ct.detect_raw):
            with pytest.raises(
                UserError, match=r"scan: its values are not in HU, the bundle was trained on scans in HU"
            ):
                look(scan, "scan")
        assert len(trained_on_mr.predict(scan, "scan")) == 2
    with pytest.raises(UserError, match="its values are in HU, the bundle was trained on scans not in HU"):
        trained_on_mr.predict(ct, "scan")


def test_choices_of_the_caller_come_before_the_bundle(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"])
    bundle = bundle_of(blob_finder)
    assert len(Predictor(bundle, changes={"score_threshold": 0.9}).predict_file(scan)) == 0
    assert len(Predictor(bundle).predict_file(scan)) == 2


def test_a_precision_has_one_name_and_what_is_none_is_refused(blob_finder):
    assert Predictor(bundle_of(blob_finder), "cpu", precision="bf16").precision == "bf16-mixed"
    for name in ("fp61", "float16", "bf16-true", ""):
        with pytest.raises(UserError, match=f"precision: got '{name}', wanted one of 32-true"):
            Predictor(bundle_of(blob_finder), "cpu", precision=name)


def test_a_device_that_is_not_here(blob_finder):
    name = "nonsense" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"device '{name}' cannot be used here"):
        Predictor(bundle_of(blob_finder), device=name)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_boxes_come_back_exactly_whatever_the_scan_and_the_training_spacing(blob_finder, tmp_path, data):
    """Any order and direction of axes, any spacing, any tilt; resampled to half the spacing along any axes."""
    order = data.draw(st.permutations(range(3)))
    signs = [data.draw(st.sampled_from([-1, 1])) for _ in range(3)]
    spacing_mm = [data.draw(st.floats(0.4, 4)) for _ in range(3)]
    tilt = turn(data.draw(st.integers(0, 2)), data.draw(st.floats(-15, 15)))
    affine = affine_ras(tilt @ np.eye(3)[:, order] @ np.diag(np.array(signs) * spacing_mm))
    # Not as dark as air: a single voxel stays bright where its three faces are interpolated, 0.75^3 of the way.
    array = np.full((9, 10, 11), -300, np.int16)
    low = [data.draw(st.integers(0, size - 2)) for size in array.shape]
    high = [data.draw(st.integers(first + 1, size)) for first, size in zip(low, array.shape, strict=True)]
    array[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = BLOB_HU
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    halved = [data.draw(st.booleans()) for _ in range(3)]
    wanted_mm = tuple(mm / (2 if half else 1) for mm, half in zip(volume.grid.spacing_mm, halved, strict=True))
    predictor = Predictor(bundle_of(blob_finder, spacing_mm=wanted_mm, patch=(32, 32, 32)))
    prediction = predictor.predict(volume, "a")
    np.testing.assert_allclose(prediction.boxes_vox, [[*low, *high]], atol=1e-4)
    corners = np.array([[low[axis] if first else high[axis] for axis, first in enumerate(pick)] for pick in PICKS])
    world = (corners - 0.5) @ affine[:3, :3].T + affine[:3, 3]
    world = world * [-1, -1, 1]  # RAS to LPS
    np.testing.assert_allclose(prediction.boxes_lps_mm[0], [*world.min(axis=0), *world.max(axis=0)], atol=1e-3)


def test_members_of_other_spacing_and_patch_agree_on_the_same_box(blob_finder, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["oblique"])
    spacing_mm = tuple(value / 2 for value in read_volume(scan).grid.spacing_mm)
    fine = bundle_of(blob_finder, spacing_mm=spacing_mm, patch=(32, 32, 24))
    for merge in ("nms", "wbc"):
        ensemble = Predictor([bundle_of(blob_finder), fine], changes={"merge": merge})
        told = []
        volume = read_volume(scan)
        prediction = ensemble.predict(volume, "a", progress=lambda done, total, told=told: told.append((done, total)))
        assert found(prediction) == BOXES
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1]


def test_a_member_that_sees_nothing_lowers_the_score_of_a_cluster(blob_finder, tmp_path):
    class Blind(type(blob_finder)):
        def detect(self, image):
            return [one[:0] for one in super().detect(image)]

    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"], boxes=[BOXES[0]], shape=(12, 12, 12))
    alone = Predictor(bundle_of(blob_finder), changes={"merge": "wbc"}).predict_file(scan)
    ensemble = Predictor([bundle_of(blob_finder), bundle_of(Blind())], changes={"merge": "wbc"})
    # One tile each: of two expected raw detections one is missing.
    assert ensemble.predict_file(scan).scores.tolist() == pytest.approx([alone.scores[0] / 2])


def test_any_subset_of_folds_predicts(blob_finder, tmp_path):
    class Fold(type(blob_finder)):
        def __init__(self, confidence):
            super().__init__()
            self.confidence = confidence

        def detect(self, image):
            seen = super().detect(image)
            return [Detections(one.boxes, one.scores * self.confidence, one.labels) for one in seen]

    scan = write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"], boxes=[BOXES[0]], shape=(12, 12, 12))
    whole = Predictor(bundle_of(blob_finder)).predict_file(scan)
    confidences = (0.4, 0.7, 1.0)
    for count in (1, 2, 3):
        for subset in itertools.combinations(confidences, count):
            folds = [bundle_of(Fold(confidence)) for confidence in subset]
            prediction = Predictor(folds, changes={"merge": "wbc"}).predict_file(scan)
            assert found(prediction) == found(whole)
            # The score of a cluster is the mean of its members', all of which saw the box whole in one tile.
            assert prediction.scores.tolist() == pytest.approx([whole.scores[0] * sum(subset) / count])


def test_members_of_other_classes_are_refused(blob_finder):
    other = dataclasses.replace(bundle_of(blob_finder), classes=("bright", "dim"))
    with pytest.raises(UserError, match="bundles of different classes: dim, bright and bright, dim"):
        Predictor([bundle_of(blob_finder), other])
    with pytest.raises(UserError, match="no detector bundle"):
        Predictor([])


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("factor", [1, 2])
def test_masks_are_the_blobs_in_the_voxels_of_the_file(blob_segmenter, tmp_path, name, factor):
    scan = read_volume(write_scan(tmp_path / "scan.nii.gz", AFFINES[name]))
    spacing_mm = tuple(value / factor for value in scan.grid.spacing_mm)
    bundle = bundle_of(blob_segmenter, spacing_mm=spacing_mm, patch=(16 * factor,) * 3)
    prediction = Predictor(bundle).predict(scan, "a", with_masks=True)
    expected = np.zeros((22, 24, 11), np.uint16)
    inner = np.zeros_like(expected)
    for number, (i0, j0, k0, i1, j1, k1) in enumerate(prediction.boxes_vox.round().astype(int), start=1):
        expected[i0:i1, j0:j1, k0:k1] = number
        inner[i0 + 1 : i1 - 1, j0 + 1 : j1 - 1, k0 + 1 : k1 - 1] = number
    assert expected.max() == len(BOXES)
    if factor == 1:
        np.testing.assert_array_equal(prediction.instances, expected)
    # Interpolation darkens corners, so at half the spacing the outer voxels may be missing, none elsewhere.
    assert (prediction.instances[inner > 0] == inner[inner > 0]).all()
    assert (np.where(prediction.instances > 0, expected, 0) == prediction.instances).all()


def test_masks_without_a_segmentation_head_are_refused(blob_finder, tmp_path):
    scan = read_volume(write_scan(tmp_path / "scan.nii.gz", AFFINES["lps"]))
    with pytest.raises(UserError, match="BlobFinder has no segmentation head"):
        Predictor(bundle_of(blob_finder)).predict(scan, "a", with_masks=True)
