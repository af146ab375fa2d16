from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import layouts, nnunet, read_raw
from medpretrain3d.ingest.importers.annotations import BoxAnnotation, SphereAnnotation
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.patients import PatientTable
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.store import Store


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_an_nndetection_task_with_instance_maps(tmp_path, write_nifti):
    raw = tmp_path / "Task000D3_Example"
    mask = np.zeros((12, 10, 8), np.uint8)
    mask[1:4, 1:4, 1:4], mask[8:10, 6:8, 5:7], mask[6, 2:9, 1] = 1, 1, 2  # instance 1 is of two parts
    for number, case_id in enumerate(("case_0", "case_1")):
        write_nifti(
            mask.astype(np.int16) * 50 + np.int16(number), f"raw_splitted/imagesTr/{case_id}_0000.nii.gz", folder=raw
        )
        write_nifti(mask, f"raw_splitted/labelsTr/{case_id}.nii.gz", folder=raw)
    write_nifti(np.zeros_like(mask), "raw_splitted/labelsTr/case_1.nii.gz", folder=raw)
    (raw / "raw_splitted/labelsTr/case_0.json").write_text(json.dumps({"instances": {"1": 1, "2": 0}}))
    (raw / "raw_splitted/labelsTr/case_1.json").write_text(json.dumps({"instances": {}}))
    labels = {"0": "Square", "1": "SquareHole"}
    description = {"task": raw.name, "labels": labels, "modalities": {"0": "CT"}, "dim": 3}
    (raw / "dataset.json").write_text(json.dumps(description))
    prepare(raw, tmp_path / "store")
    store = Store(tmp_path / "store")
    assert (store.classes, store.channel_names) == (("Square", "SquareHole"), ("CT",))
    case = store.case("case_0")
    assert case.labels.tolist() == [1, 0]
    assert case.grid.map_boxes(case.boxes, case.source_grid).tolist() == [[1, 1, 1, 10, 8, 7], [6, 2, 1, 7, 9, 2]]
    assert store.entries["case_1"]["num_objects"] == 0


BOX = "x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox"
CSV = f"""image,label,patient,split,ignore,diameter_mm,x_lps_mm,y_lps_mm,z_lps_mm,{BOX}
a.nii, nodule, p1, train, , , ,,, 1,2,3,4,5,6
a.nii, mass, p1, train, , 8, 10,-20,30, ,,,,,
a.nii, , p1, train, 1, 4, 1,2,3, ,,,,,
sub/b.mha, , , val, , , ,,, ,,,,,
"""


def test_a_table_of_boxes_and_of_centres_with_diameters(tmp_path):
    touch(tmp_path, "a.nii", "sub/b.mha", "unnamed.nii.gz", "unnamed_seg.nii.gz")
    (tmp_path / "boxes.csv").write_text(CSV)
    dataset = read_raw(tmp_path)
    assert dataset.classes == ("mass", "nodule")
    a, b, unnamed, label_map = dataset.cases
    assert a.annotations == (
        BoxAnnotation((1, 2, 3), (4, 5, 6), "voxels", 1),
        SphereAnnotation((10, -20, 30), 8, "lps_mm", 0),
    )
    assert a.ignore == (SphereAnnotation((1, 2, 3), 4, "lps_mm", 0),)
    assert (a.patient, a.split) == ("p1", "train")
    assert (b.id, b.annotations, b.split, unnamed.split) == ("sub__b", (), "val", "unlabelled")
    assert "is called a label map" in label_map.problem


def test_a_table_in_ras_turns_x_and_y_around(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "boxes.csv").write_text(
        "image,x0_ras_mm,y0_ras_mm,z0_ras_mm,x1_ras_mm,y1_ras_mm,z1_ras_mm,x_vox,y_vox,z_vox,diameter_vox\n"
        "a.nii,1,2,3,4,6,8,,,,\n"
        "a.nii,,,,,,,10,11,12,4\n"
    )
    dataset = read_raw(tmp_path)
    assert dataset.classes == ("object",)
    assert dataset.cases[0].annotations == (
        BoxAnnotation((-4, -6, 3), (-1, -2, 8), "lps_mm"),
        BoxAnnotation((8, 9, 10), (12, 13, 14), "voxels"),
    )


def test_cells_that_pandas_writes_for_nothing_are_no_class_no_patient_and_no_object(tmp_path):
    for name in ("a.nii", "b.nii"):
        touch(tmp_path, name)
    (tmp_path / "boxes.csv").write_text(
        "image,label,patient,x_vox,y_vox,z_vox,diameter_mm\na.nii,nodule,nan,1,2,3,4\nb.nii,nan,nan,nan,nan,nan,nan\n"
    )
    dataset = read_raw(tmp_path)
    assert dataset.classes == ("nodule",)
    assert [len(case.annotations) for case in dataset.cases] == [1, 0]
    assert [case.patient for case in dataset.cases] == [None, None]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,label,x_vox,y_vox,z_vox\na.nii,nodule,1,2,3\na.nii,nan,4,5,6\n", "1 of 2 objects have no label"),
        ("file\na.nii\n", "lacks the column image; has file"),
        ("image,x0_vox\na.nii,1\n", "y0_vox is '', wanted a number"),
        ("image,label\na.nii,nodule\n", "neither a box"),
        ("image\na.nii\n", "no row holds an object"),
        ("image,x_vox,y_vox,z_vox,diameter_mm\n../a.nii,1,2,3,4\n", "wanted a path below this folder"),
        ("image,split,x_vox,y_vox,z_vox,diameter_mm\na.nii,eval,1,2,3,4\n", "in split 'eval', wanted train"),
        (
            "image,patient,x_vox,y_vox,z_vox,diameter_mm\na.nii,p,1,2,3,4\na.nii,q,1,2,3,4\n",
            "has patient p and q; keep one",
        ),
    ],
)
def test_tables_that_leave_something_to_guess_are_refused(tmp_path, table, message):
    touch(tmp_path, "a.nii")
    (tmp_path / "boxes.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        read_raw(tmp_path)


def test_coco_in_other_frames_and_with_damage(tmp_path):
    touch(tmp_path, "a.nii")
    document = {
        "frame": "ras_mm",
        "images": [{"id": 1, "file_name": "a.nii"}, {"id": 2, "file_name": "gone.nii"}],
        "categories": [{"id": 5, "name": "lesion"}],
        "annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4, 5, 6]}],
    }

    def read(**changes):
        (tmp_path / "annotations.json").write_text(json.dumps({**document, **changes}))
        return read_raw(tmp_path)

    a, gone = read().cases
    assert a.annotations == (BoxAnnotation((-5, -7, 3), (-1, -2, 9), "lps_mm", 0),)
    assert "gone.nii, which is not there" in gone.problem
    assert read(frame="voxels").cases[0].annotations == (BoxAnnotation((1, 2, 3), (5, 7, 9), "voxels", 0),)
    for changes, message in [
        ({"frame": "mm"}, "frame is 'mm', wanted one of voxels"),
        ({"images": []}, "annotations of image 1, which `images` does not list"),
        ({"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}]}, "not as COCO has it"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "wanted a path below this folder"),
    ]:
        with pytest.raises(UserError, match=message):
            read(**changes)


def test_a_name_means_its_scan_however_its_accents_are_composed(tmp_path):
    composed, decomposed = "M\u00fcller_1", "Mu\u0308ller_1"
    touch(tmp_path, f"{decomposed}.nii")
    assert ScanIds([decomposed]).find(composed) == decomposed
    patients = tmp_path.parent / "patients.csv"
    patients.write_text(f"case,patient\n{composed},x\n", encoding="utf-8")
    assert PatientTable(patients)([decomposed])[0] == {decomposed: "x"}
    rows = "".join(f"{name}.nii,{x},2,3,4\n" for x, name in enumerate((composed, decomposed)))
    (tmp_path / "boxes.csv").write_text(f"image,x_vox,y_vox,z_vox,diameter_vox\n{rows}", encoding="utf-8")
    (case,) = read_raw(tmp_path).cases
    assert (case.id, case.problem, len(case.annotations)) == (decomposed, "", 2)
    (tmp_path / "boxes.csv").unlink()
    document = {
        "images": [{"id": 1, "file_name": f"{composed}.nii"}],
        "categories": [{"id": 1, "name": "lesion"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4, 5, 6]}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    (case,) = read_raw(tmp_path).cases
    assert (case.id, case.problem, len(case.annotations)) == (decomposed, "", 1)
    (tmp_path / "annotations.json").unlink()
    touch(tmp_path, f"{composed}_seg.nii", "other.nii")
    assert {case.id: bool(case.labels) for case in read_raw(tmp_path).cases} == {decomposed: True, "other": False}


def test_a_tree_of_dicom_and_other_scans_without_labels(tmp_path):
    raw = tmp_path / "raw"
    plane = sitk.Image([8, 8], sitk.sitkInt16) + 40
    for folder, series in [("p1/ct", "1.2.3"), ("p2/ct", "1.2.4"), ("p2/ct", "1.2.5")]:
        for number in range(4):
            for tag, value in {
                "0020|000e": series,
                "0020|0032": f"0\\0\\{number}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
            }.items():
                plane.SetMetaData(tag, value)
            path = raw / folder / f"{series}-{number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(path))
            writer.Execute(plane)
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkInt16), raw / "scan.mha")
    cases = read_raw(raw).cases
    assert [case.id.rpartition("__")[0] or case.id for case in cases] == ["p1", "p2__ct", "p2__ct", "scan"]
    assert cases[0].images == (raw / "p1/ct",)
    assert {case.images[0].parent for case in cases[1:3]} == {raw / "p2/ct"}


def test_the_list_of_layouts_and_one_tree(capsys):
    assert main(["datasets"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in layouts())
    assert "CC BY-NC 4.0" in told
    assert main(["datasets", "lidc_idri"]) == 0
    told = capsys.readouterr().out
    assert "RAW/LIDC-IDRI-0001/<study>/<series>/*.dcm" in told
    assert "options: min_readers=3" in told
    assert main(["datasets", "imagenet"]) == 2
    assert "imagenet: unknown; known are msd_colon" in capsys.readouterr().err


def test_names_and_options_are_checked(tmp_path):
    touch(tmp_path, "a.nii")
    with pytest.raises(UserError, match="--dataset luna: unknown; known are msd_colon"):
        read_raw(tmp_path, dataset="luna")
    with pytest.raises(UserError, match="lidc_idri: unknown option 'readers'; options of this data set: min_readers"):
        read_raw(tmp_path, dataset="lidc_idri", options={"readers": "3"})
    with pytest.raises(UserError, match="option min_readers is 'all', wanted int"):
        read_raw(tmp_path, dataset="lidc_idri", options={"min_readers": "all"})
    with pytest.raises(UserError, match="folder: unknown option 'fold'"):
        read_raw(tmp_path, fold=1)


@pytest.mark.parametrize("name", [name for name, layout in layouts().items() if layout.patterns])
def test_every_layout_shows_its_tree_where_another_is_found(tmp_path, name):
    touch(tmp_path, "holiday/beach.jpg")
    with pytest.raises(UserError) as caught:
        read_raw(tmp_path, dataset=name)
    told = str(caught.value)
    assert f"docs/datasets.md#{name}" in told
    assert layouts()[name].wanted in told
    assert told.endswith("found\n  holiday/\n    beach.jpg")


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        ({"0": "CT", "1": "PET"}, ("CT", "PET")),
        ({"PET": 1, "CT": 0}, ("CT", "PET")),
        ({"CT": "0"}, ("CT",)),
        ({"CT": [0]}, ()),
        ({"CT": None}, ()),
        (["CT"], ()),
        ({"a": 0, "b": 0}, ()),
    ],
)
def test_channel_names_may_be_turned_round(channels, names):
    assert nnunet._channel_names({"channel_names": channels}) == names


def test_an_ending_in_capitals_is_one_of_label_maps_too(tmp_path, make_dataset, capsys):
    raw = make_dataset(["a", "b", "c"])
    for name in ("imagesTs", "labelsTs"):
        (raw / name).mkdir()
    (raw / "imagesTr/c_0000.nii.gz").rename(raw / "imagesTs/c.NII.GZ")
    (raw / "labelsTr/c.nii.gz").rename(raw / "labelsTs/c.NII.GZ")
    (raw / "labelsTr/b.nii.gz").rename(raw / "labelsTr/b.Nii.gz")
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 0
    store = Store(tmp_path / "store")
    assert store.splits == {"train": ("a", "b"), "val": (), "test": ("c",)}
    assert {len(store.case(name).boxes) for name in store.case_ids} == {3}
    assert "not used" not in capsys.readouterr().out
