from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.base import IGNORE
from medpretrain3d.phantom import write_phantom


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"instances": {"1": 0}}) if name.endswith(".json") else "")
    return root


def describe(root, **dataset):
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1, "y": 2}, **dataset}))
    return root


def test_nnunet_layout_with_channels_folds_and_a_test_split(tmp_path):
    put(
        tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"
    )
    put(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz", "imagesTs/t_0000.nii.gz", "labelsTs/t.nii.gz")
    put(tmp_path, "imagesTs/u_0000.nii.gz", "imagesTr/._a_0000.nii.gz")
    describe(tmp_path, channel_names={"0": "CT", "1": "PET"})
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    dataset = read_raw(tmp_path)
    assert dataset.classes == ("x", "y")
    assert dataset.objects == "components"
    assert dataset.channel_names == ("CT", "PET")
    assert {case.id: case.split for case in dataset.cases} == {"a": "train", "b": "val", "t": "test", "u": "unlabelled"}
    assert [path.name for path in dataset.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.cases[0].class_of_value == {1: 0, 2: 1}
    assert {case.id: case.split for case in read_raw(tmp_path, fold=1).cases}["a"] == "val"
    with pytest.raises(UserError, match="has no fold 2; it has 2"):
        read_raw(tmp_path, fold=2)


def test_msd_layout_uses_the_cases_it_lists(tmp_path):
    put(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    listed = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, {"image": "../../etc/c.nii.gz"}]
    describe(tmp_path, labels={"0": "background", "2": "y", "1": "x"}, training=listed, modality={"0": "CT"})
    dataset = read_raw(tmp_path)
    assert dataset.classes == ("x", "y")
    assert [(case.id, bool(case.problem)) for case in dataset.cases] == [("a", False), ("c", True)]


def test_an_image_that_is_listed_with_its_number_is_a_case_of_its_own(tmp_path):
    names = [f"scan_{number:04d}" for number in range(5)]
    put(tmp_path, *(f"{folder}/{name}.nii.gz" for name in names for folder in ("imagesTr", "labelsTr")))
    listed = [{"image": f"./imagesTr/{name}.nii.gz"} for name in names[:4]]
    describe(tmp_path, training=listed, modality={"0": "CT"})
    wanted = {name: (f"{name}.nii.gz",) for name in names}
    assert images_of(read_raw(tmp_path)) == {name: wanted[name] for name in names[:4]}
    assert images_of(read_raw(describe(tmp_path))) == wanted  # their label maps are called so
    (tmp_path / "labelsTr").rename(tmp_path / "labelsTs")
    (tmp_path / "imagesTr").rename(tmp_path / "imagesTs")
    assert images_of(read_raw(tmp_path)) == wanted
    put(tmp_path, "imagesTs/one_0000.nii.gz", "labelsTs/one_0000.nii.gz", "imagesTs/two_0000.nii", "labelsTs/two.nii")
    assert [case.id for case in read_raw(tmp_path).cases] == ["one_0000", *names, "two"]


def test_one_patient_of_nnunet_has_as_many_channels_as_are_named(tmp_path):
    put(tmp_path, "imagesTr/p_0000.nii.gz", "imagesTr/p_0001.nii.gz", "labelsTr/p.nii.gz")
    put(tmp_path, "imagesTs/q_0000.nii.gz", "imagesTs/q_0001.nii.gz")
    two = {"p": ("p_0000.nii.gz", "p_0001.nii.gz"), "q": ("q_0000.nii.gz", "q_0001.nii.gz")}
    assert images_of(read_raw(describe(tmp_path, channel_names={"0": "CT", "1": "PET"}))) == two
    one = {"p": two["p"], "q_0000": ("q_0000.nii.gz",), "q_0001": ("q_0001.nii.gz",)}
    assert images_of(read_raw(describe(tmp_path, channel_names={"0": "CT"}))) == one  # p is refused once it is read
    put(tmp_path, "imagesTs/r_0000.nii.gz", "imagesTs/r_0001.nii.gz", "imagesTs/r_0002.nii.gz")
    p, q, r = read_raw(describe(tmp_path)).cases
    assert not p.problem  # by its label map
    assert q.problem.startswith("2 files, q_0000 to q_0001, may be channels of one scan or scans of their own")
    assert "3 files" in r.problem


def images_of(dataset):
    assert not [case for case in dataset.cases if case.problem]
    return {case.id: tuple(path.name for path in case.images) for case in dataset.cases}


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["p1/a_0000.nii", "p1/a_0001.nii", "p2/b_0000.nii", "p2/b_0001.nii", "p2/c_0000.nii"], {"p1__a": 2}),
        ([f"scan_{number:04d}.nii" for number in range(17)], {"scan_0000": 1, "scan_0016": 1}),
        (["year_0000.nii", "year_2019.nii"], {"year_0000": 1, "year_2019": 1}),
    ],
)
def test_numbers_are_channels_where_several_scans_have_the_same_few(tmp_path, names, channels):
    dataset = read_raw(put(tmp_path, *names))
    assert not [case.problem for case in dataset.cases if case.problem]
    assert channels.items() <= {case.id: len(case.images) for case in dataset.cases}.items()
    joined = [one.what for one in dataset.leftovers if "taken for channels" in one.reason and one.is_used]
    assert joined == [case.id for case in dataset.cases if len(case.images) > 1]


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 2, 3, 4), (0, 2), (0, None)])
def test_numbered_files_of_one_id_are_not_taken_for_its_channels(tmp_path, numbers):
    names = ["scan.nii" if number is None else f"scan_{number:04d}.nii" for number in numbers]
    (case,) = read_raw(put(tmp_path, *names)).cases
    assert (case.id, len(case.images)) == ("scan", len(numbers))
    assert "may be channels of one scan or scans of their own" in case.problem


def test_scans_of_flare_have_one_channel(tmp_path):
    put(tmp_path, *(f"FLARE/images/scan_{number:04d}.nii.gz" for number in range(3)), "FLARE/images/a_0000.nii.gz")
    assert [case.id for case in read_raw(tmp_path, dataset="flare").cases] == [
        "FLARE__images__a",
        *(f"FLARE__images__scan_{number:04d}" for number in range(3)),
    ]


def test_instances_take_their_classes_from_a_table(tmp_path):
    put(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/a.json", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz")
    describe(tmp_path, instances=True, labels={"0": "nodule"})
    a, b = read_raw(tmp_path).cases
    assert (a.class_of_value, a.problem) == ({1: 0}, "")
    assert "b.json" in b.problem
    (tmp_path / "labelsTr/a.json").write_text(json.dumps({"instances": {"1": 4}}))
    assert "class 4, dataset.json has classes 0 to 0" in read_raw(tmp_path).cases[0].problem


def test_a_training_image_without_label_is_a_problem_and_no_negative(tmp_path):
    put(tmp_path, "imagesTr/a_0000.nii.gz")
    assert "no label file labelsTr/a.nii.gz" in read_raw(describe(tmp_path)).cases[0].problem


def test_a_plain_folder_gives_ids_from_paths(tmp_path):
    put(
        tmp_path,
        "s/x/scan.nii.gz",
        "s/y/scan.nii",
        "s/y/scan.nrrd",
        "ct_0000.nii.gz",
        "ct_2019.nii",
        "scan_2019.nii",
        "notes.txt",
    )
    dataset = read_raw(tmp_path)
    assert dataset.classes == ()
    assert {case.id: len(case.images) for case in dataset.cases} == {
        "ct_0000": 1,
        "ct_2019": 1,
        "s__x__scan": 1,
        "s__y__scan.nii": 1,
        "s__y__scan.nrrd": 1,
        "scan_2019": 1,
    }
    assert {case.split for case in dataset.cases} == {"train"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "has no labels"),
        ({"background": 0}, "wanted at least one class"),
        ({"background": 0, "whole": [1, 2]}, "regions are not objects"),
        ({"background": 0, "x": 1, "y": 1}, "a different value"),
        ({"background": 0, **{f"c{i}": i for i in range(1, 257)}}, "has 256 classes, wanted at most 255"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
    put(tmp_path, "imagesTr/a.nii.gz")
    with pytest.raises(UserError, match=message):
        read_raw(describe(tmp_path, labels=labels))


def test_the_ignore_label_is_a_region_and_no_class(tmp_path):
    put(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    dataset = read_raw(describe(tmp_path, labels={"background": 0, "x": 1, "ignore": 2}))
    assert dataset.classes == ("x",)
    assert dataset.cases[0].class_of_value == {1: 0, 2: IGNORE}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([{"train": ["a"], "val": ["a"]}], "'a' is in train and in val"),
        ([{"train": ["q"], "val": ["r"]}], "no id is that of a file in imagesTr; wanted ids like 'a'"),
        ([{"train": ["a"]}], "has no 'val'; wanted {"),
        ([{"train": ["a"], "val": [], "test": ["a"]}], "'a' is in train and in test"),
        ([{"train": ["a"], "val": [], "holdout": ["b"]}], "has an unknown 'holdout'; wanted {"),
    ],
)
def test_splits_that_cannot_be_meant_are_refused(tmp_path, splits, message):
    put(tmp_path, "imagesTr/a.nii.gz")
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=message):
        read_raw(describe(tmp_path))


def test_test_cases_of_a_fold_are_tested_and_no_fold_is_tested_on_those_of_another(tmp_path):
    put(tmp_path, *[f"{name}/{one}.nii.gz" for one in "abc" for name in ("imagesTr", "labelsTr")])
    put(tmp_path, "imagesTs/t.nii.gz", "labelsTs/t.nii.gz")
    folds = [{"train": ["a"], "val": ["b"], "test": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]
    (tmp_path / "splits.json").write_text(json.dumps(folds))
    dataset = read_raw(describe(tmp_path))
    assert {case.id: case.split for case in dataset.cases} == {"a": "train", "b": "val", "c": "test", "t": "test"}
    assert [fold["test"] for fold in dataset.folds] == [("c", "t"), ("t",)]
    assert not any("does not name" in one.reason for one in dataset.leftovers)


def test_a_misplaced_layout_shows_what_was_wanted_and_found(tmp_path):
    put(tmp_path, "slices/1.dcm", "readme.txt")
    shown = r"no case found; wanted for folder .*\n  RAW/\*\*.*\nfound\n  readme.txt\n  slices/"
    with pytest.raises(UserError, match=shown):
        read_raw(tmp_path)
    with pytest.raises(UserError, match="no imagesTr or imagesTs beside it"):
        read_raw(describe(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        read_raw(tmp_path / "nowhere")
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_raw(tmp_path)


def test_the_real_data_set_is_listed_in_full(shared_data):
    dataset = read_raw(shared_data / "openkbp")
    assert dataset.classes == ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Mandible")
    counts = np.unique([case.split for case in dataset.cases], return_counts=True)
    assert dict(zip(*map(np.ndarray.tolist, counts), strict=True)) == {"test": 8, "train": 24, "val": 8}
    assert len(read_raw(shared_data / "openkbp_unlabelled").cases) == 113
    assert len(read_raw(shared_data / "openkbp" / "imagesTr").cases) == 32


def test_a_phantom_is_read_by_its_masks_though_a_table_of_boxes_lies_beside_them(tmp_path):
    write_phantom(tmp_path / "phantom", 2, spacing_mm=8.0)
    dataset = read_raw(tmp_path / "phantom")
    assert (tmp_path / "phantom" / "boxes.csv").is_file()
    assert dataset.objects == "instances"
    assert all(case.labels is not None for case in dataset.cases)
