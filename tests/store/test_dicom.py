from __future__ import annotations

import os
import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import RawCase
from medpretrain3d.ingest.prepare_case import Job, find_existing, prepare_case
from medpretrain3d.store.case import Case
from medpretrain3d.store.readers import dicom_series, find_series, read_scan, source_files
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import read_volume

PIXELS = np.arange(5 * 3 * 4, dtype=np.int16).reshape(5, 3, 4)  # (slice, row, column)
STEP_MM = 2.5
HEIGHTS_MM = np.arange(5) * STEP_MM


def write_slice(path, pixels, position, number=1, series="1.2.3", slope=1, intercept=-1024, tilt=0.0, modality="CT"):
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = f"{series}.{number}"
    slice_.PatientName, slice_.PatientID = "DOE^JOHN", "4711"
    slice_.Modality, slice_.SeriesInstanceUID, slice_.StudyInstanceUID = modality, series, "1.2"
    slice_.ImagePositionPatient = [float(value) for value in position]
    # Rows run along x; columns along y, tilted about x.
    slice_.ImageOrientationPatient = [1, 0, 0, 0, round(float(np.cos(tilt)), 12), round(float(np.sin(tilt)), 12)]
    slice_.PixelSpacing = [0.8, 0.7]
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.HighBit, slice_.PixelRepresentation = 15, 1
    slice_.RescaleSlope, slice_.RescaleIntercept = slope, intercept
    slice_.PixelData = np.ascontiguousarray(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    slice_.save_as(path, enforce_file_format=True)
    return path


def write_series(folder, heights=HEIGHTS_MM, pixels=PIXELS, names=None, **changes):
    for number, (height, plane) in enumerate(zip(heights, pixels, strict=True), start=1):
        name = names[number - 1] if names else f"{number:03d}.dcm"
        write_slice(folder / name, plane, (-10, 20, 100 + height), number, **changes)
    return folder


def test_a_series_is_put_together_by_position_not_by_name(tmp_path):
    folder = write_series(tmp_path / "s", names=["c", "a", "e.dcm", "b", "d"])
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "notes.txt").write_text("not a slice")
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, PIXELS.transpose(2, 1, 0)[None] - 1024)
    expected = np.diag([0.7, 0.8, STEP_MM, 1])  # a row's pixels are a column spacing (0.7) apart
    expected[:3, 3] = (-10, 20, 100)
    np.testing.assert_allclose(scan.affine_lps, expected)
    np.testing.assert_array_equal(read_volume(folder / "c").array, read_volume(folder).array)
    np.testing.assert_array_equal(read_volume(folder).array[0], PIXELS - 1024)  # (S, P, L) is (z, y, x)
    assert len(source_files(folder)) == len(source_files(folder / "c")) == 7


def test_every_slice_is_rescaled_by_its_own_header(tmp_path):
    for number, (plane, slope) in enumerate(zip(PIXELS, (1, 2, 0.5, 4, 1), strict=True)):
        write_slice(tmp_path / f"{number}.dcm", plane, (0, 0, number), number + 1, slope=slope, intercept=-number)
    expected = PIXELS * np.array([1, 2, 0.5, 4, 1])[:, None, None] - np.arange(5)[:, None, None]
    np.testing.assert_allclose(read_scan(tmp_path).voxels[0].transpose(2, 1, 0), expected)


def test_a_series_of_mr_is_not_taken_for_hu(tmp_path):
    folder = write_series(tmp_path / "s", modality="MR", intercept=0)
    assert read_scan(folder).modality == "MR"
    with pytest.raises(UserError, match="is of modality MR, so it is not in HU; prepare with --intensity any"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, "any").array[0], PIXELS)


@pytest.mark.parametrize("codec", ["JPEG", "JPEG2000"])
def test_losslessly_compressed_slices_decode(tmp_path, codec):
    pixels = np.random.default_rng(0).integers(-1024, 3000, (3, 32, 40)).astype(np.int16)
    for number, plane in enumerate(pixels):
        image = sitk.GetImageFromArray(plane)
        for tag, value in {
            "0020|000e": "1.2.3",
            "0020|0032": f"0\\0\\{number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0008|0060": "CT",  # without it the writer leaves spacing out, unless it has written another image before
        }.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetImageIO("GDCMImageIO")
        writer.SetCompressor(codec)
        writer.UseCompressionOn()
        writer.SetFileName(str(tmp_path / f"{number}.dcm"))
        writer.Execute(image)
    assert pydicom.dcmread(tmp_path / "0.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_scan(tmp_path).voxels[0].transpose(2, 1, 0), pixels)


def test_an_oblique_series_keeps_its_oblique_affine(tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    for number, plane in enumerate(PIXELS):  # slices stacked along their normal (0, -s, c)
        write_slice(tmp_path / f"{number}.dcm", plane, number * STEP_MM * np.array([0, -s, c]), number + 1, tilt=0.3)
    affine = read_scan(tmp_path).affine_lps
    np.testing.assert_allclose(affine[:3, 2], STEP_MM * np.array([0, -s, c]), atol=1e-6)
    np.testing.assert_allclose(affine[:3, 1], 0.8 * np.array([0, c, s]), atol=1e-6)


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ([0, 1, 2, 4, 5], r"1 slices are missing: steps of 1 mm, and up to 2 mm"),
        ([0, 1, 2, 3, 9], r"5 slices are missing"),
        ([0, 1, 2, 3.25, 4.6], r"unevenly spaced, 1 to 1.35 mm apart"),
        ([0, 1, 2, 3, 3], "different slices at one place"),
        ([0, 0, 0, 0, 0], "different slices at one place"),
    ],
)
def test_slices_that_form_no_regular_grid_are_refused(tmp_path, heights, message):
    with pytest.raises(UserError, match=message) as told:
        read_scan(write_series(tmp_path / "s", heights))
    assert told.value.kind == "slices"


def test_rounded_positions_and_copies_are_no_fault(tmp_path):
    folder = write_series(tmp_path, [0, 2.52, 4.98, 7.5, 10.0])
    write_slice(folder / "copy.dcm", PIXELS[2], (-10, 20, 104.98), 9)
    scan = read_scan(folder)
    assert scan.voxels.shape == (1, 4, 3, 5)
    assert scan.affine_lps[2, 2] == pytest.approx(2.5)


def test_a_tilted_gantry_is_refused(tmp_path):
    # The table moves along z, the slices lean by 15 degrees: tan 15 degrees = 0.27 mm per mm.
    folder = write_series(tmp_path, tilt=np.radians(15))
    with pytest.raises(UserError, match=r"gantry tilted by 15.0 degrees") as told:
        read_scan(folder)
    assert told.value.kind == "gantry tilt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NumberOfFrames": 2}, "holds several frames"),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"PixelSpacing": [0, 0.7]}, "spacing of 0.0 x 0.7 mm"),
        ({"ImagePositionPatient": None}, "where the slice lies is unknown"),
    ],
)
def test_what_is_no_stack_of_planes_is_refused(tmp_path, changes, message):
    folder = write_series(tmp_path / "s")
    slice_ = pydicom.dcmread(folder / "001.dcm")
    for tag, value in changes.items():
        setattr(slice_, tag, value)
    slice_.save_as(folder / "001.dcm")
    with pytest.raises(UserError, match=message):
        read_scan(folder)


def test_a_localizer_and_a_damaged_slice_are_named(tmp_path):
    folder = write_series(tmp_path)
    write_slice(folder / "scout.dcm", np.zeros((8, 8), np.int16), (0, 0, 0), 99)
    with pytest.raises(UserError, match=r"1 of 6 slices are not of 4 x 3 pixels; remove localizers"):
        read_scan(folder)
    (folder / "scout.dcm").unlink()
    whole = (folder / "003.dcm").read_bytes()
    for keep in (300, len(whole) - 10):
        (folder / "003.dcm").write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"003.dcm: (is no readable|its pixels)|: holds 2 DICOM series"):
            read_scan(folder)


def test_several_series_in_one_folder(tmp_path):
    write_series(tmp_path / "a", names=[f"x{i}" for i in range(5)], series="1.2.3")
    write_series(tmp_path / "a", names=[f"y{i}" for i in range(5)], series="1.2.4", intercept=0)
    write_series(tmp_path / "b/deep", series="1.2.5")
    found = find_series(tmp_path)
    assert [(series.folder, series.files[0].name, len(series.files)) for series in found] == [
        (tmp_path / "a", "x0", 5),
        (tmp_path / "a", "y0", 5),
        (tmp_path / "b/deep", "001.dcm", 5),
    ]
    assert len({series.key for series in found}) == 3
    with pytest.raises(UserError, match="holds 2 DICOM series; name one file"):
        read_scan(tmp_path / "a")
    assert read_scan(tmp_path / "a/y3").voxels.min() == 0
    by_name = {series.files[0].name: series for series in found}
    assert read_scan(tmp_path / "a", by_name["y0"].key).voxels.min() == 0
    assert read_scan(tmp_path / "a", "1.2.3").voxels.min() == -1024
    with pytest.raises(UserError, match=r"no DICOM series fits '1\.2\.9'"):
        read_scan(tmp_path / "a", "1.2.9")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no DICOM series"):
        read_scan(tmp_path / "empty")


def test_series_of_one_folder_are_told_apart_once_and_again_where_it_changed(tmp_path, monkeypatch):
    for number in range(1, 5):
        names = [f"{number}_{slice_}.dcm" for slice_ in range(5)]
        write_series(tmp_path, pixels=PIXELS + 100 * number, names=names, series=f"1.2.{number}")
    opened = []
    open_header = dicom_series.open_header
    monkeypatch.setattr(dicom_series, "open_header", lambda file: opened.append(file) or open_header(file))
    for number in range(1, 5):
        voxels = read_scan(tmp_path / f"{number}_0.dcm").voxels
        np.testing.assert_array_equal(voxels, (PIXELS + 100 * number).transpose(2, 1, 0)[None] - 1024)
    assert len(opened) == 20  # not 80
    write_slice(tmp_path / "1_5.dcm", PIXELS[0], (-10, 20, 100 + 5 * STEP_MM), 6, series="1.2.1")
    assert read_scan(tmp_path / "1_0.dcm").voxels.shape[3] == 6
    (tmp_path / "1_5.dcm").unlink()
    assert read_scan(tmp_path / "1_0.dcm").voxels.shape[3] == 5
    (tmp_path / "2_4.dcm").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"2_4\.dcm: is called a DICOM file and is none"):
        read_scan(tmp_path / "1_0.dcm")


def test_a_missing_library_says_how_to_install_it(tmp_path, monkeypatch):
    folder = write_series(tmp_path)
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(UserError, match=r'pip install "medpretrain3d\[dicom\]"'):
        read_scan(folder)


def test_a_series_becomes_a_case_without_the_patients_name(tmp_path, capfd):
    pixels = np.random.default_rng(0).integers(0, 2000, (6, 7, 8)).astype(np.int16)
    folder = write_series(tmp_path / "s", np.arange(6), pixels)
    bad = write_series(tmp_path / "bad", [0, 1, 2, 3, 4, 9], pixels)
    (bad / "003.dcm").write_bytes((bad / "003.dcm").read_bytes()[:-200])
    for name, path in (("good", folder), ("bad", bad)):
        job = Job(RawCase(name, (path,)), tmp_path / "store", "components", None, 1, "hu", 1)
        outcome = prepare_case(job)
        assert bool(outcome.row) == (name == "good")
        assert find_existing(job) == outcome
    np.testing.assert_array_equal(Case.open(tmp_path / "store/cases/good").read_image()[0], pixels - 1024)
    told = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    for secret in ("DOE", "JOHN", "4711", "1.2.3"):
        assert secret.encode() not in written
        assert secret not in told.out + told.err
    write_slice(folder / "007.dcm", pixels[0], (-10, 20, 106), 7)  # a slice more, and the case is made anew
    assert find_existing(Job(RawCase("good", (folder,)), tmp_path / "store", "components", None, 1, "hu", 1)) is None


def changed_slice(folder, name="003.dcm", **changes):
    slice_ = pydicom.dcmread(folder / name)
    for tag, value in changes.items():
        if value is None:
            delattr(slice_, tag)
        else:
            setattr(slice_, tag, value)
    slice_.save_as(folder / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "1 of 5 slices have another orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}, "1 of 5 slices have another orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.999, 0.04471]}, "1 of 5 slices have another orientation"),
        ({"PixelSpacing": [0.8, 0.72]}, "1 of 5 slices have another pixel spacing"),
        ({"PixelSpacing": [0.7, 0.8]}, "1 of 5 slices have another pixel spacing"),
        ({"ImagePositionPatient": [-8, 20, 105]}, "1 of 5 slices are shifted in their plane, by up to 2.86 pixels"),
        ({"EchoTime": 10}, None),
        ({"RescaleSlope": None}, "1 of 5 slices have no rescale slope or intercept"),
        ({"RescaleIntercept": None}, "1 of 5 slices have no rescale slope or intercept"),
        ({"RescaleSlope": 0}, "rescale slope of 0"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "1 of 5 slices are localizers"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "2 different photometric interpretations in one series"),
        ({"Modality": "PT"}, "2 different modalities in one series"),
    ],
)
def test_one_slice_of_another_geometry_or_kind_is_refused(tmp_path, changes, message):
    folder = write_series(tmp_path / "s")
    changed_slice(folder, **changes)
    if message is None:  # one slice that says more than the others contradicts none
        assert read_scan(folder).voxels.shape == (1, 4, 3, 5)
        return
    with pytest.raises(UserError, match=message):
        read_scan(folder)


@pytest.mark.parametrize(
    "tag", ["EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "ConvolutionKernel", "FrameOfReferenceUID"]
)
def test_two_volumes_with_slices_in_between_each_other_are_refused(tmp_path, tag):
    """Their places alone would make one regular stack."""
    folder = write_series(tmp_path / "s")
    for number in range(1, 6):
        texts = {"ConvolutionKernel": ["B30f", "B70f"], "FrameOfReferenceUID": ["1.2", "1.3"]}
        value = texts.get(tag, [1, 2])[number % 2]
        changed_slice(folder, f"{number:03d}.dcm", **{tag: value})
    with pytest.raises(UserError, match=r"slices of 2 different .* in one series; give each a series") as told:
        read_scan(folder)
    assert "B70f" not in str(told.value)


@pytest.mark.parametrize("name", ["005.dcm", "006.DCM"])
@pytest.mark.parametrize("content", [b"", b"x" * 500, None])
def test_a_last_slice_that_is_damaged_or_a_link_to_nowhere_is_not_left_out(name, content, tmp_path):
    folder = write_series(tmp_path / "s")
    (folder / name).unlink(missing_ok=True)
    if content is None:
        (folder / name).symlink_to(tmp_path / "gone")
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: is called a DICOM file and is none"):
        read_scan(folder)


def test_acquisitions_bits_and_the_order_of_slices_are_no_fault(tmp_path):
    folder = write_series(tmp_path / "s", heights=HEIGHTS_MM[::-1], pixels=PIXELS[::-1])
    for number in range(1, 6):
        changed_slice(folder, f"{number:03d}.dcm", AcquisitionNumber=number)
    changed_slice(folder, PixelRepresentation=0, BitsStored=12, HighBit=11)  # its pixels, 24 to 35, mean the same
    np.testing.assert_array_equal(read_volume(folder).array[0], PIXELS - 1024)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, "has no rescale slope and intercept"),
        ({"RescaleIntercept": None}, "has no rescale slope and intercept"),
        ({"RescaleType": "Z_EFF"}, "its rescale type says that its values are not HU"),
    ],
)
def test_a_ct_that_does_not_say_how_its_values_become_hu_is_not_taken_for_hu(tmp_path, changes, message):
    folder = write_series(tmp_path / "s")
    for number in range(1, 6):
        changed_slice(folder, f"{number:03d}.dcm", **changes)
    with pytest.raises(UserError, match=message) as told:
        read_volume(folder)
    assert told.value.kind == "values"
    assert read_volume(folder, "any").array.shape == (1, 5, 3, 4)


def test_names_that_are_not_in_utf8_cost_their_series_a_note(tmp_path, capsys):
    """SimpleITK would end the process."""
    pixels = np.random.default_rng(0).integers(0, 2000, (6, 7, 8)).astype(np.int16)
    write_series(tmp_path / "raw/good", np.arange(6), pixels)
    write_series(tmp_path / "raw" / os.fsdecode(b"caf\xe9"), np.arange(6), pixels + np.int16(1))
    write_series(tmp_path / "raw/one_slice", np.arange(6), pixels + np.int16(2))
    (tmp_path / "raw/one_slice/003.dcm").rename(tmp_path / "raw/one_slice" / os.fsdecode(b"\xe9.dcm"))
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store")]) == 1
    told = capsys.readouterr().err
    assert Store(tmp_path / "store").case_ids == ("good",)
    assert "its name is not in UTF-8; rename it" in told
    assert "wanted a plain folder name" in told


def test_the_series_of_an_export_is_chosen_by_its_description(tmp_path):
    """The list that says how is shown, and kept in no note: a description is free text."""
    for name, description, planes in (("x", "Thorax 1.0 B70", 5), ("y", "Thorax 5.0 B30", 5), ("z", "Topogram", 3)):
        series = f"1.2.{ord(name)}"
        write_series(
            tmp_path, HEIGHTS_MM[:planes], PIXELS[:planes], [f"{name}{i}" for i in range(planes)], series=series
        )
        for number in range(planes):
            changed_slice(tmp_path, f"{name}{number}", SeriesDescription=description)
    with pytest.raises(
        UserError, match="holds 3 DICOM series; name one file of the one, or the one by --series KEY"
    ) as told:
        read_scan(tmp_path)
    lines = str(told.value).splitlines()[1:]
    keys = {series.files[0].name: series.key for series in find_series(tmp_path)}
    assert lines == [
        f"  {keys['x0']}  CT        5 slices  x0  Thorax 1.0 B70",
        f"  {keys['y0']}  CT        5 slices  y0  Thorax 5.0 B30",
        f"  {keys['z0']}  CT        3 slices  z0  Topogram",
    ]
    assert read_scan(tmp_path, "thorax 5*").voxels.shape[3] == 5
    assert read_scan(tmp_path, keys["z0"]).voxels.shape[3] == 3
    with pytest.raises(UserError, match=r"2 DICOM series fit 'thorax\*'; name the one by its key"):
        read_scan(tmp_path, "thorax*")


def test_objects_beside_the_slices_that_are_no_scans_are_none(tmp_path):
    """Reports, doses and structure sets in an export do not become series."""
    folder = write_series(tmp_path / "s")
    for number, sop_class in enumerate(
        ("1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.88.33")
    ):
        other = pydicom.dcmread(folder / "001.dcm")
        other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID = sop_class
        other.SeriesInstanceUID = f"1.3.{number}"
        other.save_as(folder / f"other{number}.dcm")
    assert [len(series.files) for series in find_series(tmp_path)] == [5]
    assert read_scan(folder).voxels.shape == (1, 4, 3, 5)
