"""Annotations that would have gone without a word: each is kept, counted or refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.base import Leftover
from medpretrain3d.ingest.importers.files import flag
from medpretrain3d.ingest.importers.files import number as number_of
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.store import Store
from tests.ingest.miniatures import MINIATURES, mask, nifti, scan

COLUMNS = "image,label,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox"


def prepared(raw, store, capsys, *options):
    code = main(["prepare", str(raw), str(store), *options])
    told = capsys.readouterr()
    return code, told.out + told.err


def objects_of(store):
    return {case_id: entry["num_objects"] for case_id, entry in Store(store).entries.items()}


@pytest.mark.parametrize(
    "written", ["1.3.6.1.mhd", " 1.3.6.1 ", "\ufeff1.3.6.1", "subset1/1.3.6.1.mhd", "C:\\luna\\1.3.6.1.MHD"]
)
def test_an_id_with_an_ending_or_blanks_meets_its_scan(written, tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["luna16"].write(raw)
    table = raw / "annotations.csv"
    table.write_text(table.read_text().replace("1.3.6.1,", f"{written},"), encoding="utf-8")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 0
    assert objects_of(tmp_path / "store") == {f"1.3.6.{subset}": 1 for subset in range(10)}
    assert ("ids of annotations.csv that meet their scan by likeness: 1" in told) == (written.strip() != "1.3.6.1")


def test_rows_that_meet_no_scan_are_counted_and_none_meeting_is_an_error(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["luna16"].write(raw)
    table = raw / "annotations.csv"
    text = table.read_text()
    table.write_text(text.replace("1.3.6.1,", "9.9,").replace("1.3.6.2,", "1.3E+05,"))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 0
    assert "rows of annotations.csv that meet no scan: 1 (9.9)" in told
    assert "rows of annotations.csv whose id a spreadsheet turned into a number: 1 (1.3E+05)" in told
    assert sum(objects_of(tmp_path / "store").values()) == 8
    table.write_text(text.replace("1.3.6.", "4.5.6."))
    code, told = prepared(raw, tmp_path / "none", capsys)
    assert code == 2
    assert "none of its 10 rows meets a scan: it names '4.5.6.0', scans are called '1.3.6.0'" in told


def test_ids_differ_in_case_zeros_and_endings_only_where_that_is_unique(tmp_path):
    ids = ScanIds(["007", "8", "p1/Scan.nii.gz", "p2/other.nii.gz", "p3/other.nii.gz"])
    assert [ids.find(one) for one in ("7", "007", "08", "scan", "other", "9")] == [
        "007",
        "007",
        "8",
        "p1/Scan.nii.gz",
        None,
        None,
    ]
    scan_of, left = ids.meet(tmp_path / "t.csv", ["007", "7", "9"])
    assert scan_of == {"007": "007", "7": "007"}
    assert Leftover("9", "rows of t.csv that meet no scan") in left


def test_an_own_set_with_ids_of_msd_is_read_by_its_own_classes(tmp_path, capsys):
    raw = tmp_path / "raw"
    for number in (1, 2, 3):
        nifti(raw / f"imagesTr/liver_{number}_0000.nii.gz", scan(number))
        nifti(raw / f"labelsTr/liver_{number}.nii.gz", mask(0, 1))
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "metastasis": 1}}))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 0
    assert Store(tmp_path / "store").classes == ("metastasis",)
    assert sum(objects_of(tmp_path / "store").values()) == 3
    assert "layout nnunet" in told
    assert "msd_liver: dataset.json names the labels" in told
    assert main(["prepare", str(raw), str(tmp_path / "as_msd"), "--dataset", "msd_liver"]) == 2


def test_an_own_set_laid_out_as_kits_with_other_values_is_told_to_hold_nothing(tmp_path, capsys):
    raw = tmp_path / "raw"
    for number in range(3):
        nifti(raw / f"case_{number:05d}/imaging.nii.gz", scan(number))
        nifti(raw / f"case_{number:05d}/segmentation.nii.gz", mask(0, 1))  # 1 is the kidney of KiTS
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "label values 1 are anatomy around objects, not objects" in told
    assert "warning: none of the 3 training cases holds an object" in told
    assert "labelled cases without objects: train 3 (3 with an empty label map)" in told


def test_pairs_that_look_like_a_corpus_keep_their_label_maps(tmp_path, capsys):
    for folder, scan_name, map_name in (("a", "s01/ct.nii.gz", "s01/seg.nii.gz"), ("b", "p1.nii.gz", "p1_seg1.nii.gz")):
        nifti(tmp_path / folder / scan_name, scan())
        nifti(tmp_path / folder / map_name, mask())
        prepared(tmp_path / folder, tmp_path / f"{folder}_store", capsys)
        assert sum(objects_of(tmp_path / f"{folder}_store").values()) == 1


def test_an_nnunet_set_of_flare_keeps_its_label_maps(tmp_path):
    nifti(tmp_path / "imagesTr/FLARE22_Tr_0001_0000.nii.gz", scan())
    nifti(tmp_path / "labelsTr/FLARE22_Tr_0001.nii.gz", mask())
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1}}))
    dataset = read_raw(tmp_path)
    assert (dataset.layout, dataset.classes) == ("nnunet", ("lesion",))


def test_a_yaml_of_nndetection_names_the_classes(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["nndetection"].write(raw)
    (raw / "dataset.yaml").write_text("labels:\n  0: square\n  1: hole\n")
    assert read_raw(raw).classes == ("square", "hole")
    (raw / "dataset.json").write_text("{}")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 2
    assert "has dataset.json and dataset.yaml; keep one" in told


@pytest.mark.parametrize("name", ["annotations.csv", "Boxes.CSV", "nodules.tsv"])
def test_a_table_of_boxes_may_have_any_name(name, tmp_path, capsys):
    MINIATURES["folder"].write(tmp_path / "raw")
    parted = "\t" if name.endswith("tsv") else ","
    text = f"{COLUMNS}\na.nii.gz,nodule,1,2,3,4,5,6\n".replace(",", parted)
    (tmp_path / f"raw/{name}").write_text(text)
    code, told = prepared(tmp_path / "raw", tmp_path / "store", capsys)
    assert code == 0
    assert objects_of(tmp_path / "store")["a"] == 1
    assert f"layout boxes_csv, it has {name}" in told
    assert Store(tmp_path / "store").splits["unlabelled"] == ("b", "c")


def test_a_table_that_looks_like_objects_and_that_no_layout_reads_is_no_corpus(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["folder"].write(raw)
    (raw / "annotations.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,4\n")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 2
    assert "annotations.csv: its columns look like objects, but no layout reads it" in told
    code, told = prepared(raw, tmp_path / "store", capsys, "--layout", "folder")
    assert code == 0
    assert "tables and documents that the layout folder does not read: 1 (annotations.csv)" in told
    (raw / "annotations.csv").write_text("id,age,x_spacing,y_spacing,z_spacing\na,60,1,1,1\n")
    assert prepared(raw, tmp_path / "again", capsys)[0] == 0


@pytest.mark.parametrize("description", ["dataset.yaml", "dataset.yml", "dataset.json"])
@pytest.mark.parametrize("place", ["raw", "raw/raw_splitted", "beside"])
def test_a_task_of_nndetection_is_known_from_each_of_its_folders(description, place, tmp_path):
    raw = tmp_path / "raw"
    MINIATURES["nndetection"].write(raw)
    (raw / "dataset.yaml").unlink()
    (raw / description).write_text('{"labels": {"0": "benign", "1": "malignant"}}')
    for case in "ab":
        (raw / f"raw_splitted/labelsTr/{case}.json").write_text('{"instances": {"1": 1}}')
    if place == "beside" and description != "dataset.json":  # then it is nnU-Net's, and asks for "instances"
        for folder in ("imagesTr", "labelsTr"):
            (raw / "raw_splitted" / folder).rename(raw / folder)
    dataset = read_raw(raw / "raw_splitted" if place == "raw/raw_splitted" else raw)
    assert (dataset.layout, dataset.classes) == ("nndetection", ("benign", "malignant"))
    assert [case.class_of_value for case in dataset.cases] == [{1: 1}, {1: 1}, {1: 0}]
    (raw / description).unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing; wanted for nndetection"):
        read_raw(raw)


def test_columns_in_any_case_and_a_column_of_classes_under_another_name(tmp_path):
    MINIATURES["boxes_csv"].write(tmp_path)
    table = tmp_path / "boxes.csv"
    text = table.read_text().replace("b.nii.gz,nodule,2,3,2,4,6,4,", "b.nii.gz,nodule,2,3,2,4,6,4,true")
    for header in ("Image,Label,X0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox,Ignore", text.splitlines()[0].upper()):
        table.write_text("\n".join([header, *text.splitlines()[1:]]))
        dataset = read_raw(tmp_path)
        assert [(len(case.annotations), len(case.ignore)) for case in dataset.cases] == [(1, 0), (0, 1), (1, 0)]
        assert dataset.leftovers == ()
    for name in ("class", "Category", "label_name", "type"):
        table.write_text(text.replace("label", name))
        with pytest.raises(UserError, match=f"has no column label; call '{name}' so if it names the classes"):
            read_raw(tmp_path)
    table.write_text(text.replace("ignore", "Label"))
    with pytest.raises(UserError, match="has the column label twice"):
        read_raw(tmp_path)


def test_the_table_that_was_read_is_named_and_no_other(tmp_path):
    MINIATURES["boxes_csv"].write(tmp_path)
    (tmp_path / "about.csv").write_text("scanner,year\nA,2020\n")
    dataset = read_raw(tmp_path)
    assert dataset.recognised_by == "it has boxes.csv"
    assert [one.what for one in dataset.leftovers] == ["about.csv"]


def test_documents_that_hold_objects_and_that_no_layout_reads_are_no_corpus(tmp_path):
    MINIATURES["coco"].write(tmp_path)
    (tmp_path / "annotations.json").rename(tmp_path / "instances_train.json")
    with pytest.raises(UserError, match=r"instances_train\.json: it looks like objects, but no layout reads it"):
        read_raw(tmp_path)
    assert len(read_raw(tmp_path, dataset="folder").cases) == 3
    MINIATURES["pairs"].write(tmp_path / "pairs")
    (tmp_path / "pairs/dataset.yaml").write_text("labels: {1: nodule}")
    with pytest.raises(UserError, match=r"dataset\.yaml: it looks like the description of a data set"):
        read_raw(tmp_path / "pairs")


def test_a_link_to_a_folder_that_is_gone_is_said(tmp_path):
    MINIATURES["folder"].write(tmp_path)
    (tmp_path / "p9").symlink_to(tmp_path / "elsewhere")
    assert [(one.what, one.reason) for one in read_raw(tmp_path).leftovers] == [("p9", "links that lead nowhere")]


def test_an_own_class_beside_those_of_msd_is_kept(tmp_path):
    MINIATURES["msd_liver"].write(tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["labels"]["3"] = "cyst"
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    assert read_raw(tmp_path).classes == ("liver", "cancer", "cyst")


def test_two_layouts_that_fit_alike_have_to_be_told_apart(tmp_path, capsys):
    MINIATURES["boxes_csv"].write(tmp_path / "raw")
    MINIATURES["coco"].write(tmp_path / "raw")
    code, told = prepared(tmp_path / "raw", tmp_path / "store", capsys)
    assert code == 2
    assert (
        "looks like boxes_csv (boxes.csv) and coco (annotations.json) alike; say which by --dataset boxes_csv" in told
    )
    assert prepared(tmp_path / "raw", tmp_path / "store", capsys, "--dataset", "coco")[0] == 0


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "yes", "Yes", " y ", "1.0", True, 1])
def test_words_that_say_yes(word):
    assert flag(word, "ignore") is True


@pytest.mark.parametrize("word", ["0", "false", "NO", "", None, False, 0, "0.0"])
def test_words_that_say_no(word):
    assert flag(word, "ignore") is False


def test_regions_to_ignore_in_any_spelling_are_no_objects(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["folder"].write(raw)
    rows = [f"a.nii.gz,nodule,{k},2,3,{k + 1},5,6,{word}" for k, word in enumerate(("", "no", "true", "YES", "1"))]
    (raw / "boxes.csv").write_text("\n".join([f"{COLUMNS},ignore", *rows]))
    (case,) = [case for case in read_raw(raw).cases if case.annotations]
    assert (len(case.annotations), len(case.ignore)) == (2, 3)
    (raw / "boxes.csv").write_text(f"{COLUMNS},ignore\na.nii.gz,nodule,1,2,3,2,5,6,maybe\n")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 2
    assert "ignore of a.nii.gz is 'maybe', wanted 1, true or yes, or 0, false or no" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "several categories of the name 'a'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "several categories of the id 1"),
        (
            {"images": [{"id": 0, "file_name": "a.nii.gz", "split": "dev"}]},
            "is in split 'dev', wanted train, val, test",
        ),
        ({"images": [{"id": 0, "file_name": "a.nii.gz"}] * 2}, "several images of the id 0"),
        (
            {"annotations": [{"image_id": 0, "category_id": 7, "bbox": [1] * 6}]},
            "category 7 of an annotation is not in",
        ),
        (
            {"annotations": [{"image_id": 0, "category_id": 1, "bbox": [1] * 6, "iscrowd": "perhaps"}]},
            "iscrowd is 'perhaps', wanted 1",
        ),
    ],
)
def test_coco_files_that_contradict_themselves_are_refused(changes, message, tmp_path):
    nifti(tmp_path / "a.nii.gz", scan())
    document = {
        "images": [{"id": 0, "file_name": "a.nii.gz"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1] * 6, "iscrowd": "0"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    assert len(read_raw(tmp_path).cases[0].annotations) == 1
    (tmp_path / "annotations.json").write_text(json.dumps({**document, **changes}))
    with pytest.raises(UserError, match=message):
        read_raw(tmp_path)


def test_semicolons_and_decimal_commas(tmp_path):
    MINIATURES["folder"].write(tmp_path)
    (tmp_path / "boxes.csv").write_text("image;label;x_vox;y_vox;z_vox;diameter_vox\na.nii.gz;nodule;5,5;4,25;3;2\n")
    (case,) = [case for case in read_raw(tmp_path).cases if case.annotations]
    assert (case.annotations[0].low, case.annotations[0].high) == ((4.5, 3.25, 2), (6.5, 5.25, 4))
    (tmp_path / "boxes.csv").write_text("image,label,x_vox,y_vox,z_vox,diameter_vox\na.nii.gz,nodule,5,5,4,25,3,2\n")
    with pytest.raises(UserError, match="row 2 has 8 cells, the header 6"):
        read_raw(tmp_path)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "1,2,3", "one"])
def test_numbers_are_finite(text, tmp_path):
    with pytest.raises(UserError, match="wanted a number"):
        number_of(tmp_path / "t.csv", {"x": text}, "x")


def test_what_is_done_to_boxes_is_counted(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["folder"].write(raw)
    rows = ["1,2,3,4,5,6,", "1,2,3,4,5,6,", "-3,2,3,4,5,6,", "20,20,20,30,30,30,1"]
    (raw / "boxes.csv").write_text("\n".join([f"{COLUMNS},ignore,note", *(f"a.nii.gz,nodule,{row}," for row in rows)]))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 0
    assert objects_of(tmp_path / "store")["a"] == 2
    for line in (
        "objects given twice, taken once: 1 (a)",
        "objects cut at the edge of their scan: 1 (a)",
        "ignore regions outside of their scan: 1 (a)",
        "columns of boxes.csv that have no meaning here: 1 (note)",
    ):
        assert line in told


@pytest.mark.parametrize(
    ("columns", "row", "hint"),
    [
        (COLUMNS.replace("vox", "lps_mm"), "-4,-5,3,-2,-3,6", "are they in RAS, not in LPS?"),
        (COLUMNS, "3,2,8,6,5,11", "are x and z exchanged?"),
        (COLUMNS, "90,2,8,99,5,11", "is its frame the one stated"),
    ],
)
def test_boxes_in_another_frame_say_which(columns, row, hint, tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["folder"].write(raw)
    (raw / "boxes.csv").write_text(f"{columns}\na.nii.gz,nodule,{row}\n")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "1 of 1 objects: " in told
    assert hint in told


@pytest.mark.parametrize("layout", ["coco", "nnunet"])
def test_classes_that_differ_in_case_or_blanks_only_are_refused(layout, tmp_path):
    MINIATURES[layout].write(tmp_path)
    path = tmp_path / {"coco": "annotations.json", "nnunet": "dataset.json"}[layout]
    document = json.loads(path.read_text())
    if layout == "coco":
        document["categories"].append({"id": 9, "name": "Nodule "})
    else:
        document["labels"]["Nodule "] = 9
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="the labels 'nodule' and 'Nodule ' differ in case or blanks only"):
        read_raw(tmp_path)


NO_CLASSES = {
    "has 256 classes, wanted at most 255": [f"c{number}" for number in range(256)],
    "names of classes: .* at least 1 character": ["nodule", ""],
    "names of classes: .* at most 200 characters": ["nodule", "n" * 201],
    "names of classes: .*printable": ["nodule", "a\x07b"],
}


@pytest.mark.parametrize("layout", ["boxes_csv", "coco", "nnunet", "pairs"])
@pytest.mark.parametrize("message", NO_CLASSES)
def test_classes_that_no_store_can_hold_are_refused_before_anything_is_written(message, layout, tmp_path):
    if "at least 1" in message and layout in ("boxes_csv", "pairs"):
        pytest.skip("says so in its own words")
    names, raw, options = NO_CLASSES[message], tmp_path / "raw", ()
    MINIATURES[layout if layout in ("coco", "nnunet") else "folder"].write(raw)
    document, changes = {"coco": "annotations.json", "nnunet": "dataset.json"}.get(layout), {}
    if layout == "boxes_csv":
        rows = "".join(f"a.nii.gz,{name},1,2,3,4,5,6\n" for name in names)
        (raw / "boxes.csv").write_text(f"{COLUMNS}\n{rows}")
    elif layout == "coco":
        changes = {"categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)]}
    elif layout == "nnunet":
        changes = {"labels": {"background": 0, **{name: number for number, name in enumerate(names, 1)}}}
    else:
        (raw / "a_seg.nii.gz").write_bytes((raw / "a.nii.gz").read_bytes())
        options = (("classes", ",".join(names)),)
    if document:
        (raw / document).write_text(json.dumps({**json.loads((raw / document).read_text()), **changes}))
    advice = "choose and name them by --option classes" if layout == "pairs" else "; correct "
    with pytest.raises(UserError, match=rf"{message}.*{advice}"):
        prepare(raw, tmp_path / "store", PrepareOptions(dataset=layout, dataset_options=options))
    assert not list(tmp_path.glob("store/*"))


def test_255_classes_make_a_store_that_can_be_read(tmp_path):
    MINIATURES["folder"].write(tmp_path / "raw")
    rows = "".join(f"a.nii.gz,c{number:03d},1,2,3,4,5,6\n" for number in range(255))
    (tmp_path / "raw/boxes.csv").write_text(f"{COLUMNS}\n{rows}")
    prepare(tmp_path / "raw", tmp_path / "store")
    assert Store(tmp_path / "store").case("a").labels.max() == 254


@pytest.mark.parametrize("name", ["", "n" * 201])
def test_channels_that_no_store_can_hold_are_refused(name, tmp_path):
    MINIATURES["nnunet"].write(tmp_path / "raw")
    path = tmp_path / "raw/dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "channel_names": {"0": name}}))
    with pytest.raises(UserError, match="names of channels: "):
        prepare(tmp_path / "raw", tmp_path / "store")
    assert not list(tmp_path.glob("store/*"))


def test_objects_without_a_label_beside_objects_with_one_are_refused(tmp_path):
    MINIATURES["folder"].write(tmp_path)
    box = "1,2,3,4,5,6"
    table = tmp_path / "boxes.csv"
    table.write_text(f"{COLUMNS}\na.nii.gz,nodule,{box}\nb.nii.gz,,{box}\nb.nii.gz,nodule,{box}\n")
    with pytest.raises(UserError, match=r"1 of 3 objects have no label, first one of b\.nii\.gz; name"):
        read_raw(tmp_path)
    table.write_text(f"{COLUMNS}\na.nii.gz,,{box}\nb.nii.gz,,{box}\n")
    assert read_raw(tmp_path).classes == ("object",)
    table.write_text(f"{COLUMNS},ignore\na.nii.gz,nodule,{box},\na.nii.gz,,{box},1\nb.nii.gz,,,,,,,,\n")
    assert read_raw(tmp_path).classes == ("nodule",)  # neither an ignore region nor a negative has a class


def test_labels_that_differ_in_case_only_are_refused(tmp_path):
    MINIATURES["folder"].write(tmp_path)
    (tmp_path / "boxes.csv").write_text(f"{COLUMNS}\na.nii.gz,nodule,1,2,3,4,5,6\nb.nii.gz,Nodule,1,2,3,4,5,6\n")
    with pytest.raises(UserError, match="the labels 'Nodule' and 'nodule' differ in case or blanks only"):
        read_raw(tmp_path)


@pytest.mark.parametrize("name", ["lits", "btcv", "ribfrac", "cta_a"])
def test_two_files_of_one_name_in_different_folders_are_a_problem(name, tmp_path):
    MINIATURES[name].write(tmp_path)
    file = tmp_path / MINIATURES[name].image
    other = tmp_path / "other" / file.parent.name / file.name
    nifti(other, scan(50))
    (tmp_path / "aneurysm_seg.csv").unlink(missing_ok=True)
    (problem,) = [case.problem for case in read_raw(tmp_path).cases if case.problem]
    assert "2 files of one name, " in problem


def test_label_maps_without_an_image_and_splits_without_a_file_are_said(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["nnunet"].write(raw)
    nifti(raw / "labelsTr/orphan.nii.gz", mask())
    (raw / "splits.json").write_text(json.dumps([{"train": ["a", "gone"], "val": ["b"]}]))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "labelsTr/orphan.nii.gz has no image in imagesTr" in told
    assert "ids of splits.json that meet no image in imagesTr: 1 (gone)" in told
    assert "cases that fold 0 of splits.json does not name, taken for training: 1 (c)" in told


def _missing_class(raw, of_b):
    for number, (case, value) in enumerate({"a": 1, "b": of_b, "c": 2}.items()):
        nifti(raw / f"imagesTr/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"labelsTr/{case}.nii.gz", mask(0, value))
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "nodule": 1, "mass": 2, "cyst": 3}}))
    (raw / "splits.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))


@pytest.mark.slow
def test_a_class_that_is_missing_in_training_is_said_by_every_command(tmp_path, capsys, monkeypatch):
    from finetune.datamodule import FinetuneData

    raw, store = tmp_path / "raw", tmp_path / "store"
    _missing_class(raw, 1)
    mass, cyst = (
        "class 'mass' has no object in training; there are some in val",
        "class 'cyst' has no object in training",
    )
    code, told = prepared(raw, store, capsys)
    assert code == 0
    assert f"warning: {mass}" in told
    assert f"warning: {cyst} and none elsewhere" in told
    said = []
    monkeypatch.setattr("finetune.datamodule.rank_zero_print", said.append)
    FinetuneData(str(store), (8, 8, 8), 1)
    assert [f"{mass}" in line for line in said if "mass" in line] == [True]
    assert main(["split", str(store), "--folds", "2"]) == 0
    assert "warning: fold " in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)  # where the recipe is written
    assert main(["plan", str(store), "--preset", "XXS", "--memory", "2"]) == 0
    told = capsys.readouterr()
    assert f"warning: {store}: {mass}" in told.err
    assert "# missing: class 'mass'" in told.out


def test_no_object_in_training_is_an_error_of_fine_tuning(tmp_path, capsys):
    from finetune.datamodule import FinetuneData

    raw, store = tmp_path / "raw", tmp_path / "store"
    _missing_class(raw, 1)
    (raw / "splits.json").write_text(json.dumps([{"train": ["b"], "val": ["a", "c"]}]))
    nifti(raw / "labelsTr/b.nii.gz", mask(0, 0))
    code, told = prepared(raw, store, capsys)
    assert code == 0
    assert "warning: none of the 1 training cases holds an object" in told
    with pytest.raises(UserError, match="none of the 1 training cases holds an object, so nothing can be learnt"):
        FinetuneData(str(store), (8, 8, 8), 1)


def test_odd_names_and_folders_cost_their_case_a_note(tmp_path, capsys):
    raw = tmp_path / "raw"
    nifti(raw / "good.nii.gz", scan())
    odd = [b"tab\there.nii.gz", b"new\nline.nii.gz", b"caf\xe9.nii.gz", b" blank.nii.gz", b"n" * 220 + b".nii.gz"]
    for number, name in enumerate(odd, start=1):
        (raw / os.fsdecode(name)).write_bytes(nifti(tmp_path / "one.nii.gz", scan(number)).read_bytes())
    nifti(raw / ".cache/x.nii.gz", scan(20))
    nifti(raw / "__MACOSX/y.nii.gz", scan(21))
    for name in ("._good.nii.gz", ".DS_Store"):
        (raw / name).write_bytes(b"\0\5\x16\7")
    (raw / "loop").symlink_to(raw)
    (raw / "self.nii.gz").symlink_to(raw / "self.nii.gz")
    os.mkfifo(raw / "pipe.nii.gz")
    nifti(tmp_path / "elsewhere/linked.nii.gz", scan(22))
    (raw / "link").symlink_to(tmp_path / "elsewhere")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert Store(tmp_path / "store").case_ids == ("good", "link__linked")
    assert "2 prepared, 0 reused, 6 skipped" in told
    assert "hidden folders with volumes, which are not read: 1 (.cache)" in told
    assert "folders that a link leads to a second time: 1 (loop)" in told
    assert "Traceback" not in told
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1  # the same again


def test_a_damaged_dicom_file_costs_its_series_and_not_the_corpus(tmp_path, capsys):
    raw = tmp_path / "raw"
    nifti(raw / "good.nii.gz", scan())
    (raw / "series").mkdir()
    (raw / "series/1.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "is no readable DICOM file" in told
    assert Store(tmp_path / "store").case_ids == ("good",)


def test_two_files_that_give_one_id_cost_one_a_note(tmp_path, capsys):
    raw = tmp_path / "raw"
    nifti(raw / "a/b.nii.gz", scan(1))
    nifti(raw / "a__b.nii.gz", scan(2))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "another file gives the case id 'a__b' as well" in told
    assert len(Store(tmp_path / "store")) == 1


def test_an_unreadable_folder_is_said(tmp_path, monkeypatch):
    nifti(tmp_path / "a.nii.gz", scan())
    nifti(tmp_path / "locked/b.nii.gz", scan(1))
    scandir = os.scandir

    def locked(place):
        if os.fspath(place).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    dataset = read_raw(tmp_path)
    assert [case.id for case in dataset.cases] == ["a"]
    assert Leftover("locked", "folders that cannot be read (permission denied)") in dataset.leftovers


def test_empty_label_maps_are_negatives_and_said(tmp_path, capsys):
    raw = tmp_path / "raw"
    MINIATURES["nnunet"].write(raw)
    nifti(raw / "labelsTr/b.nii.gz", np.zeros_like(mask()))
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 0
    assert "labelled cases without objects: train 1 (1 with an empty label map)" in told
