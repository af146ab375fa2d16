from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.inference.inputs import ScanPath, find_scans, label_maps_in
from medpretrain3d.ingest.prepare import prepare


def write_scan(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((6, 5, 4), value, np.int16)
    array[0, 0, 0] = 100
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)
    return path


def write_series(folder):
    folder.mkdir(parents=True)
    for index in range(2):
        (folder / f"IM{index}").write_bytes(b"\0" * 128 + b"DICM" + bytes([index]))
    (folder / "notes.txt.bak").write_text("not a slice")
    return folder


def test_folders_files_and_lists_in_the_order_named(tmp_path):
    for name in ("in/b.nii.gz", "in/a_0000.nii", "in/._a.nii.gz", "in/a_seg.nii", "in/notes.md", "one/c.nii.gz"):
        write_scan(tmp_path / name) if "nii" in name else (tmp_path / name).write_text("")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "scans.txt").write_text("# two\n../one/c.nii.gz\n\n  ../in \n")
    assert [scan.case for scan in find_scans([tmp_path / "lists" / "scans.txt"])] == ["c", "a", "b"]
    assert [scan.case for scan in find_scans([tmp_path / "in", tmp_path / "one" / "c.nii.gz"])] == ["a", "b", "c"]


def test_files_of_one_folder_may_be_channels_of_one_scan(tmp_path):
    first, second = (write_scan(tmp_path / f"a_000{number}.nii", number) for number in (0, 1))
    (scan,) = find_scans([tmp_path])
    assert (scan.case, scan.file) == ("a", "a_0000.nii")
    assert scan.open("any").read_image((0, 0, 0), (4, 5, 6)).min(axis=(1, 2, 3)).tolist() == [0, 1]
    before = scan.sha256()
    write_scan(second, 2)
    assert scan.sha256() != before
    assert find_scans([first]) == [ScanPath(first)]


def test_numbered_files_of_a_folder_are_scans_where_scans_have_one_channel(tmp_path):
    for number in range(3):
        write_scan(tmp_path / f"a_000{number}.nii", number)
    write_scan(tmp_path / "b_0000.nii")
    scans = find_scans([tmp_path], num_channels=1)
    assert [(scan.case, scan.file) for scan in scans] == [
        *((f"a_000{number}", f"a_000{number}.nii") for number in range(3)),
        ("b", "b_0000.nii"),
    ]
    assert [scan.case for scan in find_scans([tmp_path], num_channels=3)] == ["a", "b"]


def test_a_dicom_series_is_a_folder(tmp_path):
    series = write_series(tmp_path / "study" / "chest")
    write_series(tmp_path / "study" / "abdomen")
    assert find_scans([series]) == [ScanPath(series)]
    assert [scan.case for scan in find_scans([tmp_path / "study"])] == ["abdomen", "chest"]
    before = ScanPath(series).sha256()
    (series / "IM1").write_bytes(b"\0" * 128 + b"DICM" + b"other")
    assert ScanPath(series).sha256() != before


def test_a_store_gives_the_cases_of_a_split(tmp_path):
    for name in ("a", "b", "c"):
        write_scan(tmp_path / "raw" / f"{name}.nii.gz")
    prepare([tmp_path / "raw"], tmp_path / "store", progress=False)
    scans = find_scans([tmp_path / "store"])
    assert [scan.case for scan in scans] == ["a", "b", "c"]
    assert scans[0].file == "a.nii.gz"
    opened = scans[0].open()
    np.testing.assert_array_equal(
        opened.read_image((0, 0, 0), (4, 5, 6)), ScanPath(tmp_path / "raw" / "a.nii.gz").open().array
    )
    with pytest.raises(UserError, match="test"):
        find_scans([tmp_path / "store"], "test")


def test_label_maps_that_are_left_out_are_known(tmp_path):
    for name in ("in/b.nii.gz", "in/a_seg.nii.gz"):
        write_scan(tmp_path / name)
    assert [scan.case for scan in find_scans([tmp_path / "in"])] == ["b"]
    assert label_maps_in([tmp_path / "in", tmp_path / "in/b.nii.gz"]) == [tmp_path / "in/a_seg.nii.gz"]
    with pytest.raises(UserError, match="is named twice"):
        find_scans([tmp_path / "in/b.nii.gz", tmp_path / "in/b.nii.gz"])


def test_case_ids_must_differ_wherever_the_scans_come_from(tmp_path):
    write_scan(tmp_path / "raw" / "a.nii.gz")
    prepare([tmp_path / "raw"], tmp_path / "store", progress=False)
    with pytest.raises(UserError, match=r"case a of a store and .*a\.nii\.gz both have the case id 'a'"):
        find_scans([tmp_path / "store", tmp_path / "raw"])


@pytest.mark.parametrize(
    ("text", "message"), [("", "names no scan"), ("other.txt\n", "may not name lists"), (None, "cannot be read")]
)
def test_a_list_without_scans_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        find_scans([tmp_path / "list.txt"])


def test_case_ids():
    names = ["a.nii.gz", "a.nii", "a_0000.nii.gz", "a.b.nii.gz", "a_0001.nii.gz"]
    assert [ScanPath(Path("folder") / name).case for name in names] == ["a", "a", "a", "a.b", "a_0001"]
