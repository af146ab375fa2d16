"""Scans and label maps that are told apart by their names."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.store import Store

CUBES = np.zeros((12, 10, 8), np.uint8)
CUBES[1:4, 1:4, 1:4], CUBES[8:10, 6:8, 5:7], CUBES[6, 2:9, 1] = 1, 1, 2
CT = (np.arange(CUBES.size).reshape(CUBES.shape) % 997 - 500).astype(np.int16)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


@pytest.mark.parametrize(
    ("scan", "label_map"),
    [
        ("p1.nii.gz", "p1_seg.nii.gz"),
        ("p1_ct.nii.gz", "p1_seg.nii.gz"),
        ("STS_008_CT_image.nii.gz", "STS_008_CT_mask.nii.gz"),
        ("p1-T1-img.mha", "p1-T1-label.nrrd"),
        ("p1.nrrd", "p1.seg.nrrd"),
        ("image_001.nii", "mask_001.nii"),
        ("p1/ct.nii.gz", "p1/labels.nii.gz"),
        ("p1/Scan of the chest.nii.gz", "p1/segmentation.nii.gz"),
        ("images/p1.nii.gz", "masks/p1.nii.gz"),
        ("imagesTr/p1_0000.nii.gz", "labelsTr/p1.nii.gz"),
        ("train/images/p1.nii.gz", "train/labels/p1_label.nii.gz"),
    ],
)
def test_a_label_map_goes_with_the_scan_of_its_name(tmp_path, scan, label_map):
    touch(tmp_path, scan, label_map, "other/images/p2.nii.gz")
    paired, other = sorted(read_raw(tmp_path).cases, key=lambda case: case.labels is None)
    assert (paired.images, paired.labels, paired.problem) == ((tmp_path / scan,), tmp_path / label_map, "")
    assert (paired.class_of_value, paired.split) == ({1: 0}, "train")
    assert (other.id, other.split) == ("other__images__p2", "unlabelled")


@pytest.mark.parametrize(
    ("names", "case_id", "message"),
    [
        (["p1_seg.nii"], "p1_seg", "found no scan"),
        (["p1_seg.nii", "p1_t1.nii", "p1_t2.nii"], "p1_seg", "found p1_t1, p1_t2"),
        (["p1_seg.nii", "p1_2.nii"], "p1_seg", "found no scan"),
        (["seg.nii", "a.nii", "b.nii"], "seg", "found a, b for it"),
        (["p1.nii", "p1_seg.nii", "p1_mask.nii"], "p1", "2 label maps, p1_mask and p1_seg"),
    ],
)
def test_whatever_is_not_one_pair_is_a_problem(tmp_path, names, case_id, message):
    cases = read_raw(touch(tmp_path, *names)).cases
    assert {case.id: message in case.problem for case in cases if case.problem} == {case_id: True}
    assert not [case for case in cases if case.labels]
    assert {case.split for case in cases if not case.problem} <= {"unlabelled"}


@pytest.mark.parametrize(
    ("images", "maps"),
    [
        (["images/scan_0000.nii", "images/scan_0001.nii"], ["labels/scan_0000.nii", "labels/scan_0001.nii"]),
        (["scan_0000.nii", "scan_0001.nii", "scan_0002.nii"], ["Scan-0001_seg.nii", "scan_0002_seg.nii"]),
    ],
)
def test_label_maps_called_as_numbered_files_show_that_they_are_scans(tmp_path, images, maps):
    cases = read_raw(touch(tmp_path, *images, *maps)).cases
    assert not [case.problem for case in cases if case.problem]
    assert sorted(case.images for case in cases) == [(tmp_path / name,) for name in images]
    assert [case.labels for case in cases if case.labels] == [tmp_path / name for name in maps]


def test_a_label_map_called_as_the_id_shows_that_numbered_files_are_channels(tmp_path):
    names = "images/scan_0000.nii", "images/scan_0001.nii"
    dataset = read_raw(touch(tmp_path, *names, "labels/scan.nii"))
    (case,) = dataset.cases
    assert (case.images, case.labels) == (tuple(tmp_path / name for name in names), tmp_path / "labels/scan.nii")
    assert [(one.what, one.is_used) for one in dataset.leftovers] == [("images__scan", True)]


@pytest.mark.parametrize("maps", [["labels/scan_0000.nii"], ["labels/scan.nii", "labels/scan_0001.nii"]])
def test_what_may_be_channels_or_scans_is_a_problem_whatever_its_label_maps(tmp_path, maps):
    cases = read_raw(touch(tmp_path, "images/scan_0000.nii", "images/scan_0001.nii", *maps)).cases
    assert "may be channels of one scan or scans of their own" in cases[0].problem
    assert all(case.problem for case in cases)


def test_values_are_classes_that_have_to_be_named(tmp_path, write_nifti):
    write_nifti(CT, "raw/p1_ct.nii.gz")
    raw = write_nifti(CUBES, "raw/p1_seg.nii.gz").parent
    with pytest.raises(UserError, match="label values 2 stand for no class; known are 1"):
        prepare(raw, tmp_path / "store")
    arguments = ["prepare", str(raw), str(tmp_path / "store"), "--option", "classes=nodule, vessel"]
    assert main(arguments) == 0
    store = Store(tmp_path / "store")
    assert (store.classes, store.channel_names) == (("nodule", "vessel"), ("CT",))
    assert store.case("p1_ct").labels.tolist() == [0, 0, 1]


def test_values_of_instance_maps_are_objects(tmp_path, write_nifti):
    write_nifti(CT, "raw/p1_flair.nii.gz")
    raw = write_nifti(CUBES, "raw/p1_instances.nii.gz").parent
    prepare(raw, tmp_path / "store", PrepareOptions(dataset_options=(("classes", "lesion"),)))
    store = Store(tmp_path / "store")
    assert (store.classes, store.channel_names) == (("lesion",), ("FLAIR",))
    case = store.case("p1_flair")
    assert case.labels.tolist() == [0, 0]
    assert case.grid.map_boxes(case.boxes, case.source_grid).tolist() == [[1, 1, 1, 10, 8, 7], [6, 2, 1, 7, 9, 2]]
    assert prepare(raw, tmp_path / "store", PrepareOptions(dataset_options=(("classes", "lesion"),))).reused == 1
    (several,) = read_raw(raw, options={"classes": "a,b"}).cases
    assert "p1_instances tells objects, not their classes" in several.problem


def test_every_scan_of_a_mixed_tree_is_met_and_no_label_map(shared_data):
    cases = read_raw(shared_data).cases
    # 40 + 113 openkbp, 41 each of sts_ct, sts_mr and sts_pet, 2 each of lidc0314, openms, sts and totalsegmentator.
    assert len(cases) == 284
    assert sum(case.labels is not None for case in cases) == 48 + 3 * 41
    assert not [case.id for case in cases if case.problem]


@pytest.mark.parametrize("classes", ["", "a,,b", "a, a"])
def test_classes_have_different_names(tmp_path, classes):
    with pytest.raises(UserError, match="option classes is"):
        read_raw(touch(tmp_path, "p1.nii", "p1_seg.nii"), options={"classes": classes})


def test_label_maps_are_no_unlabelled_scans_either(tmp_path, write_nifti):
    write_nifti(CT, "raw/p1_ct.nii.gz")
    write_nifti(CUBES, "raw/drawn/p1.nii.gz")
    raw = write_nifti(CUBES, "raw/p1_seg.nii.gz").parent
    summary = prepare(raw, tmp_path / "store", PrepareOptions(dataset="folder"))
    assert list(Store(tmp_path / "store").entries) == ["p1_ct"]
    by_name, by_values = sorted(summary.skipped, key=lambda note: note["kind"])
    assert (by_name["case"], by_values["case"]) == ("p1_seg", "drawn__p1")
    assert "is called a label map" in by_name["reason"]
    assert "values from 0 to 2, as of a label map" in by_values["reason"]


def test_a_modality_in_every_name_says_whether_values_are_hu(tmp_path):
    touch(tmp_path, "p1_flair.nii", "p2/FLAIR.nii.gz", "p2/mask.nii")
    assert read_raw(tmp_path, dataset="folder").channel_names == ("FLAIR",)
    touch(tmp_path, "p3_scan.nii")
    assert read_raw(tmp_path, dataset="folder").channel_names == ()


@pytest.mark.parametrize(
    ("name", "num_objects", "channel"),
    [
        ("lidc0314", {"LIDC-IDRI-0314_crop_ct": 1, "LIDC-IDRI-0314_half_ct": 1}, "CT"),
        ("openms", {"patient19_flair": 98, "patient26_flair": 19}, "FLAIR"),
        ("sts", {"STS_008_CT_image": 1, "STS_019_CT_image": 1}, "CT"),
        ("totalsegmentator", {"example_ct": 0, "example_ct_sm": 0}, "CT"),
    ],
)
def test_real_scans_beside_their_label_maps(shared_data, tmp_path, name, num_objects, channel):
    assert not prepare(shared_data / name, tmp_path).skipped
    store = Store(tmp_path)
    assert {case_id: entry["num_objects"] for case_id, entry in store.entries.items()} == num_objects
    assert store.channel_names == (channel,)
