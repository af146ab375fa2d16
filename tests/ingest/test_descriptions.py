"""What the description of a data set says of regions to ignore, of how many cases there are, and of cases twice."""

from __future__ import annotations

import json

import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.base import IGNORE
from medpretrain3d.store import Store

from .miniatures import nifti, scan


def nnunet(raw, *ids, **dataset):
    for number, one in enumerate(ids):
        nifti(raw / f"imagesTr/{one}_0000.nii.gz", scan(number))
        nifti(raw / f"labelsTr/{one}.nii.gz", scan(number) * 0)
    labels = {"background": 0, "x": 1}
    (raw / "dataset.json").write_text(json.dumps({"labels": labels, "channel_names": {"0": "CT"}, **dataset}))
    return raw


@pytest.mark.parametrize("word", ["Ignore", "IGNORE", " ignore"])
def test_a_label_called_ignore_in_any_case_is_a_region(tmp_path, word):
    dataset = read_raw(nnunet(tmp_path, "a", labels={"Background": 0, "x": 1, word: 2}))
    assert dataset.classes == ("x",)
    assert dataset.cases[0].class_of_value == {1: 0, 2: IGNORE}
    with pytest.raises(UserError, match="wanted at least one class beside the background"):
        read_raw(nnunet(tmp_path, labels={"background": 0, word: 2}))


@pytest.mark.parametrize(("key", "is_region"), [("ignore", True), ("ignore", False), ("iscrowd", True)])
def test_an_annotation_of_coco_that_says_ignore_is_a_region(tmp_path, key, is_region):
    nifti(tmp_path / "a.nii.gz", scan())
    boxes = [{"image_id": 0, "category_id": 1, "bbox": [1] * 6, **more} for more in ({}, {key: is_region})]
    images, categories = [{"id": 0, "file_name": "a.nii.gz"}], [{"id": 1, "name": "a"}]
    document = {"images": images, "categories": categories, "annotations": boxes}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    (case,) = read_raw(tmp_path).cases
    assert (len(case.annotations), len(case.ignore)) == ((1, 1) if is_region else (2, 0))
    boxes[1][key] = "perhaps"
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"{key} is 'perhaps', wanted 1"):
        read_raw(tmp_path)


@pytest.mark.parametrize(("stated", "is_said"), [(5, True), (1, True), (2, False), ("2", False), (None, False)])
def test_training_cases_that_a_description_counts_and_that_are_not_there_are_said(tmp_path, stated, is_said):
    leftovers = read_raw(nnunet(tmp_path, "a", "b", numTraining=stated)).leftovers
    said = [one.reason for one in leftovers if one.what == "dataset.json"]
    assert said == [f"numTraining of dataset.json is {stated}, and there are 2 training cases"] * is_said


def test_a_case_that_is_there_twice_is_noted_by_its_place_in_the_data_set(tmp_path, capsys):
    stores = []
    for place in ("one", "two"):
        raw = nnunet(tmp_path / place / "raw", "a", "b")
        nifti(raw / "imagesTs/a_0000.nii.gz", scan(7))
        assert main(["prepare", str(raw), str(tmp_path / place / "store")]) == 1
        assert "another file gives the case id 'a' as well" in capsys.readouterr().err
        stores.append(json.loads((tmp_path / place / "store" / "skipped.json").read_text()))
        assert Store(tmp_path / place / "store").case_ids == ("a", "b")
    assert stores[0] == stores[1]
    assert stores[0][0]["case"].startswith("a_imagesTs_a_0000_nii_gz_")
