"""Enhanced objects: the frames of one file as a volume."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import read_scan
from medpretrain3d.store.volume import read_volume
from tests.dicom_files import AXIAL, write_enhanced, write_scan

VOXELS = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5))


def items(keyword: str, values: list) -> list[Dataset]:
    found = []
    for value in values:
        one = Dataset()
        setattr(one, keyword, value)
        found.append(one)
    return found


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("order", [None, [3, 0, 4, 1, 2]])
def test_frames_are_put_together_by_position(tmp_path, is_shared, order):
    scan = read_scan(write_enhanced(tmp_path / "ct.dcm", VOXELS, frame_order=order, is_shared=is_shared))
    np.testing.assert_array_equal(scan.voxels[0], VOXELS)
    np.testing.assert_allclose(scan.affine_lps, AXIAL)
    assert scan.modality == "CT"
    assert not scan.not_hu


def test_it_is_the_volume_of_the_same_single_slices(tmp_path):
    enhanced = read_volume(write_enhanced(tmp_path / "a/ct.dcm", VOXELS))
    single = read_volume(write_scan(tmp_path / "b", VOXELS))
    np.testing.assert_array_equal(enhanced.array, single.array)
    assert enhanced.grid == single.grid


def test_every_frame_is_rescaled_by_its_own_group(tmp_path):
    transforms = []
    for slope in (1, 2, 0.5, 4, 1):
        one = Dataset()
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = slope, -1024, "US"
        transforms.append(one)
    file = write_enhanced(
        tmp_path / "mr.dcm", VOXELS, modality="MR", per_frame={"PixelValueTransformationSequence": transforms}
    )
    expected = (VOXELS + 1024) * np.array([1, 2, 0.5, 4, 1]) - 1024
    scan = read_scan(file)
    np.testing.assert_allclose(scan.voxels[0], expected)
    assert scan.modality == "MR"
    with pytest.raises(UserError, match="is of modality MR"):
        read_volume(file)


@pytest.mark.parametrize(
    ("group", "keyword", "values", "message"),
    [
        ("FrameContentSequence", "StackID", ["1", "1", "1", "2", "2"], "frames of 2 different stacks"),
        ("FrameContentSequence", "TemporalPositionIndex", [1, 2, 1, 2, 3], "frames of 3 different temporal positions"),
        ("MREchoSequence", "EffectiveEchoTime", [1.5, 3, 1.5, 3, 3], "frames of 2 different echo times"),
        ("MRDiffusionSequence", "DiffusionBValue", [0, 0, 0, 800, 800], "frames of 2 different b-values"),
        (
            "MRImageFrameTypeSequence",
            "ComplexImageComponent",
            ["MAGNITUDE", "PHASE", "PHASE", "PHASE", "PHASE"],
            "frames of 2 different image components",
        ),
        (
            "CTImageFrameTypeSequence",
            "FrameType",
            [["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"], *[["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]] * 4],
            "1 of 5 slices are localizers",
        ),
    ],
)
def test_frames_of_several_volumes_are_refused(tmp_path, group, keyword, values, message):
    file = write_enhanced(tmp_path / "x.dcm", VOXELS, per_frame={group: items(keyword, values)})
    with pytest.raises(UserError, match=message):
        read_scan(file)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PerFrameFunctionalGroupsSequence", [], "does not say of each of its 5 frames where it lies"),
        ("SharedFunctionalGroupsSequence", [], "frame 1 has no usable ImageOrientationPatient"),
        ("SamplesPerPixel", 3, "in colour"),
        ("NumberOfFrames", 4, "does not say of each of its 4 frames"),
        ("PixelData", b"12", "claim 5 slices|pixels cannot be decoded"),
    ],
)
def test_a_file_that_does_not_hold_what_it_says_is_refused(tmp_path, keyword, value, message):
    file = write_enhanced(tmp_path / "x.dcm", VOXELS)
    one = pydicom.dcmread(file)
    setattr(one, keyword, value)
    one.save_as(file)
    with pytest.raises(UserError, match=message):
        read_scan(file)


def test_missing_and_uneven_frames_are_refused_as_slices_are(tmp_path):
    with pytest.raises(UserError, match="1 slices are missing"):
        read_scan(write_enhanced(tmp_path / "x.dcm", VOXELS, frame_order=[0, 1, 3, 4]))
