"""Masks and boxes as DICOM: read back, and judged by dciodvfy (Debian's dicom3tools) where it is installed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.detection import AnchorGrid, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, save_bundle
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers import write_case
from medpretrain3d.ingest.segmentation_object import read_segments
from medpretrain3d.store import Preprocessing
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers import read_scan
from tests.dicom_files import AXIAL, write_enhanced, write_scan

SHAPE = (24, 20, 8)
VOXELS = np.random.default_rng(0).integers(-900, 1500, SHAPE)
BOXES = np.array([[2.5, 3, 1, 9.25, 10, 5], [10, 4, 2, 20, 18, 7], [1, 1, 1, 2, 2, 2]])
CLASSES = ["nodule", "Läsion"]
OBLIQUE = AXIAL.copy()
OBLIQUE[:3, :3] = np.linalg.qr(np.eye(3) + 0.1 * np.arange(9).reshape(3, 3))[0] @ AXIAL[:3, :3]
OBLIQUE[:3, 3] = (-120.123, 40.7, 900.25)


def prediction(source: Path, affine: np.ndarray) -> Prediction:
    """Two boxes with objects, and one in which the segmentation saw nothing."""
    grid = Grid(SHAPE, affine)
    instances = np.zeros(SHAPE, np.uint16)
    instances[3:9, 3:10, 1:5], instances[10:20, 4:18, 2:7] = 1, 2
    scores, labels = np.array([0.9123456, 0.5, 0.25], np.float32), np.array([0, 1, 0])
    boxes_mm = grid.boxes_to_lps_mm(BOXES)
    return Prediction("a", grid, BOXES, boxes_mm, scores, labels, "ct", instances, source=(source, ""))


@pytest.fixture(scope="module", params=["single slices", "oblique slices", "enhanced"])
def written(request, tmp_path_factory):
    """A prediction, and the folder with its results."""
    folder = tmp_path_factory.mktemp("results")
    affine = OBLIQUE if request.param == "oblique slices" else AXIAL
    if request.param == "enhanced":
        source = write_enhanced(folder / "ct.dcm", VOXELS)
    else:
        source = write_scan(folder / "ct", VOXELS, affine)
    found = prediction(source, affine)
    write_case(folder / "out", CLASSES, found, ["dicom-seg", "dicom-sr"])
    return found, folder / "out"


def test_segments_are_the_objects(written):
    found, out = written
    masks, remarks = read_segments(out / "dicom-seg/a.dcm", found.grid)
    assert list(masks) == [1, 2]
    assert not remarks
    for number, mask in masks.items():
        np.testing.assert_array_equal(mask.whole(), found.instances == number)
    header = pydicom.dcmread(out / "dicom-seg/a.dcm", stop_before_pixels=True)
    assert [one.SegmentLabel for one in header.SegmentSequence] == ["nodule 1", "Läsion 2"]
    assert (header.PatientID, header.StudyInstanceUID, header.FrameOfReferenceUID) == ("4711", "1.2", "1.9")


def numbers_of(group) -> dict[str, float]:
    """Values of a measurement group by code."""
    return {
        item.ConceptNameCodeSequence[0].CodeValue: float(item.MeasuredValueSequence[0].NumericValue)
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    }


def test_boxes_of_the_report_are_those_of_the_json_file(written):
    found, out = written
    report = highdicom.sr.srread(out / "dicom-sr/a.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    document = found.to_json()
    assert len(groups) == len(document["boxes"]) == 3
    for row, group in enumerate(groups):
        numbers = numbers_of(group[0])
        assert [numbers[edge] for edge in ("x0", "y0", "z0", "x1", "y1", "z1")] == document["boxes"][row]
        assert numbers["score"] == document["scores"][row]
        lengths = (BOXES[row, 3:] - BOXES[row, :3]) * found.grid.spacing_mm
        np.testing.assert_allclose([numbers[f"length_{axis}"] for axis in "ijk"], lengths, atol=1e-4)
        assert numbers["118565006"] == pytest.approx(lengths.prod(), rel=1e-4)  # volume
        assert group.finding_type.meaning == CLASSES[document["labels"][row]]
        faces = [item for item in group.roi if item.ValueType == "SCOORD3D"]
        corners = np.concatenate([item.value for item in faces])  # float32
        hull = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        np.testing.assert_allclose(hull, document["boxes"][row], atol=2e-4)
        assert [item.frame_of_reference_uid for item in faces] == ["1.9"] * 2


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("name", ["dicom-seg", "dicom-sr"])
def test_dciodvfy_finds_no_error(written, name):
    _, out = written
    done = subprocess.run(["dciodvfy", out / name / "a.dcm"], capture_output=True)
    told = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    assert [line for line in told if line.startswith("Error")] == []
    assert any(line in ("Segmentation", "Comprehensive3DSR") for line in told), told


def test_the_same_prediction_has_the_same_identifiers(tmp_path):
    """So that what is stored twice is one object."""
    source = write_scan(tmp_path / "ct", VOXELS)
    uids = []
    for name in ("a", "b"):
        write_case(tmp_path / name, CLASSES, prediction(source, AXIAL), ["dicom-sr", "dicom-seg"])
        uids.append([pydicom.dcmread(path).SOPInstanceUID for path in sorted((tmp_path / name).rglob("*.dcm"))])
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == 2


def test_an_object_has_one_identifier_in_both_results_and_another_in_another_scan(tmp_path):
    """Boxes of two patients may have the same coordinates."""
    tracked = []
    for series in ("1.2.3", "1.2.4"):
        found = prediction(write_scan(tmp_path / series, VOXELS, series=series), AXIAL)
        write_case(tmp_path / "out" / series, CLASSES, found, ["dicom-sr", "dicom-seg"])
        segments = pydicom.dcmread(tmp_path / "out" / series / "dicom-seg/a.dcm").SegmentSequence
        report = highdicom.sr.srread(tmp_path / "out" / series / "dicom-sr/a.dcm")
        uids = [group.tracking_uid for group in report.content.get_volumetric_roi_measurement_groups()]
        assert [one.TrackingUID for one in segments] == uids[:2]
        tracked += uids
    assert len(set(tracked)) == 6


def test_a_scan_without_a_study_or_on_another_grid_is_refused(tmp_path):
    source = write_scan(tmp_path / "ct", VOXELS)
    found = prediction(source, AXIAL)
    with pytest.raises(UserError, match="is no DICOM series, so there is no study"):
        write_case(tmp_path, CLASSES, dataclasses.replace(found, source=None), ["dicom-sr"])
    shifted = AXIAL.copy()
    shifted[1, 3] = 5
    elsewhere = dataclasses.replace(found, grid=Grid(SHAPE, shifted))
    with pytest.raises(UserError, match="slices do not lie on the grid of the prediction"):
        write_case(tmp_path, CLASSES, elsewhere, ["dicom-seg"])


def test_of_a_straightened_scan_they_lie_on_its_slices_as_they_are(tmp_path):
    """15 degrees about x on a table that moves along z: boxes stay where they are, masks go back into the slices."""
    tilted = np.eye(4)
    tilted[:3, 1], tilted[:3, 2], tilted[:3, 3] = (0, np.cos(0.26), np.sin(0.26)), (0, 0, 2.5), (-10, 5, 50)
    source = write_scan(tmp_path / "ct", VOXELS, tilted)
    scan = read_scan(source, straighten=True)
    grid = Grid(scan.voxels.shape[1:], scan.affine_lps)
    assert grid.shape[1] > SHAPE[1]
    mask = np.zeros(SHAPE, bool)
    mask[4:9, 5:12, 2:6] = True  # of the slices as they are
    instances = np.zeros(grid.shape, np.uint16)
    to_vox = np.linalg.inv(grid.affine_lps) @ tilted
    index = np.argwhere(mask) @ to_vox[:3, :3].T + to_vox[:3, 3]
    assert np.abs(index - np.rint(index))[:, [0, 2]].max() < 1e-6  # a slice is a plane of both grids
    instances[tuple(np.rint(index).astype(int).T)] = 1
    boxes = np.array([[4.0, 6, 2, 9, 16, 6]])
    found = Prediction(
        "a",
        grid,
        boxes,
        grid.boxes_to_lps_mm(boxes),
        np.ones(1),
        np.zeros(1, int),
        "ct",
        instances,
        source=(source, ""),
    )
    write_case(tmp_path / "out", CLASSES, found, ["dicom-seg", "dicom-sr"])
    masks, remarks = read_segments(tmp_path / "out/dicom-seg/a.dcm", Grid(SHAPE, tilted))
    assert not remarks
    np.testing.assert_array_equal(masks[1].whole(), mask)
    (group,) = highdicom.sr.srread(tmp_path / "out/dicom-sr/a.dcm").content.get_volumetric_roi_measurement_groups()
    edges = [numbers_of(group[0])[edge] for edge in ("x0", "y0", "z0", "x1", "y1", "z1")]
    assert edges == found.to_json()["boxes"][0]
    beside = dataclasses.replace(found, instances=np.zeros(grid.shape, np.uint16))
    beside.instances[:, -1, 0 if to_vox[1, 2] > 0 else -1] = 1  # of the corrected grid, where no slice is
    write_case(tmp_path / "beside", CLASSES, beside, ["dicom-seg"])
    assert not (tmp_path / "beside/dicom-seg/a.dcm").exists()


def test_predict_writes_both_and_a_nifti_file_is_a_failure(tmp_path, capsys):
    import nibabel as nib

    torch.manual_seed(0)
    detector = RetinaUNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(tmp_path / "bundle", detector, ["nodule"], Preprocessing((16, 16, 16)), config)
    write_scan(tmp_path / "ct", VOXELS)
    call = ["predict", str(tmp_path / "bundle"), str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    call += ["--format", "json", "dicom-seg", "dicom-sr"]
    for _ in range(2):  # the second call takes the case over
        assert main(call) == 0
        (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
        report = highdicom.sr.srread(tmp_path / "out/dicom-sr/ct.dcm")
        groups = report.content.get_volumetric_roi_measurement_groups()
        edges = [[numbers_of(group[0])[edge] for edge in ("x0", "y0", "z0", "x1", "y1", "z1")] for group in groups]
        assert edges == entry["boxes"]
        masks, _ = read_segments(tmp_path / "out/dicom-seg/ct.dcm", Grid(SHAPE, AXIAL))
        drawn = np.asarray(nib.load(tmp_path / "out/masks/ct.nii.gz").dataobj)
        assert sum(one.mask.sum() for one in masks.values()) == (drawn > 0).sum()
        for path in (tmp_path / "out").glob("dicom-*/*"):
            path.unlink()
    nib.save(nib.Nifti1Image(VOXELS.astype(np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    assert main([*call[:3], str(tmp_path / "scan.nii.gz"), *call[3:]]) == 1
    assert "scan.nii.gz: is no DICOM series" in capsys.readouterr().err
