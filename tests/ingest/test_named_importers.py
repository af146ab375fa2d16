"""Every data set with a name, on a miniature in its official layout that the test writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.store import Store

SHAPE = (12, 10, 8)


def scan(number=0):
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 997 + number).astype(np.int16)


def organ_with_lesion(organ=1, lesion=2):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:9, 1:9, 1:7] = organ
    mask[2:4, 3:6, 2:3] = lesion
    mask[6, 6, 5] = lesion
    return mask


LESIONS = [[2, 3, 2, 4, 6, 3], [6, 6, 5, 7, 7, 6]]


def stored(raw, store, **options):
    """Prepare, recognising the layout by its tree; the store."""
    summary = prepare(raw, store, PrepareOptions(**options))
    assert not summary.skipped, summary.skipped
    return Store(store)


def boxes_in_file(store, case_id):
    case = store.case(case_id)
    return case.grid.map_boxes(case.boxes, case.source_grid).tolist()


def write_mhd(path, number, flips=(1, 1, 1)):
    image = sitk.GetImageFromArray(scan(number).transpose(2, 1, 0))
    image.SetSpacing((0.5, 2.0, 4.0))
    image.SetDirection(np.diag(flips).ravel().astype(float).tolist())
    image.SetOrigin((10.0, 20.0, 30.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, path)


@pytest.fixture
def luna16(tmp_path):
    raw = tmp_path / "luna16"
    for subset in range(10):
        write_mhd(raw / f"subset{subset}/1.3.6.{subset}.mhd", subset, flips=(-1, -1, 1) if subset == 1 else (1, 1, 1))
    header = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    # The middle of voxel (5, 4, 3) in scans 0 and 1, of which the second runs to the right and to the front.
    (raw / "annotations.csv").write_text(header + "1.3.6.0,12.5,28.0,42.0,4\n1.3.6.1,7.5,12.0,42.0,4\n")
    (raw / "annotations_excluded.csv").write_text(header + "1.3.6.0,12.5,28.0,42.0,-1\n1.3.6.9,12.5,28.0,42.0,2.0\n")
    return raw


def test_luna16(luna16, tmp_path):
    store = stored(luna16, tmp_path / "store")
    assert store.classes == ("nodule",)
    # 4 mm are 8 columns, 2 rows and 1 slice; both scans show the same voxels.
    assert boxes_in_file(store, "1.3.6.0") == boxes_in_file(store, "1.3.6.1") == [[1.5, 3.5, 3, 9.5, 5.5, 4]]
    first = store.case("1.3.6.0")
    # Of unknown size: 10 mm, cut at the edge of 12 columns.
    ignored = first.grid.map_boxes(first.ignore_boxes, first.source_grid)
    np.testing.assert_allclose(ignored, [[0, 2, 2.25, 12, 7, 4.75]])
    assert not first.has_mask
    assert store.entries["1.3.6.5"]["num_objects"] == 0  # kept as a negative
    assert store.splits["test"] == ("1.3.6.0",)
    assert store.splits["val"] == ("1.3.6.1",)
    assert len(store.splits["train"]) == 8
    folds = store.all_splits.folds
    assert len(folds) == 10
    assert (folds[9]["test"], folds[9]["val"]) == (("1.3.6.9",), ("1.3.6.0",))
    assert sorted(uid for fold in folds for uid in fold["test"]) == sorted(store.case_ids)


def test_luna16_by_fold_and_without_a_table(luna16):
    assert {case.id: case.split for case in read_raw(luna16, fold=4).cases}["1.3.6.4"] == "test"
    with pytest.raises(UserError, match="LUNA16 has 10 folds"):
        read_raw(luna16, fold=10)
    (luna16 / "evaluationScript/annotations").mkdir(parents=True)
    (luna16 / "annotations_excluded.csv").rename(luna16 / "evaluationScript/annotations/annotations_excluded.csv")
    assert len(read_raw(luna16).cases[0].ignore) == 1
    (luna16 / "evaluationScript/annotations/annotations_excluded.csv").unlink()
    with pytest.raises(UserError, match=r"annotations_excluded.csv is missing(.|\n)*RAW/subset0(.|\n)*found\n"):
        read_raw(luna16)


def test_ribfrac(tmp_path, write_nifti):
    raw = tmp_path / "ribfrac"
    mask = organ_with_lesion(0, 1)
    mask[9:11, 1, 1] = 2
    for number, folder in [
        (2, "ribfrac-train-images-1/Part1"),
        (421, "ribfrac-val-images"),
        (501, "ribfrac-test-images"),
    ]:
        write_nifti(scan(number), f"RibFrac{number}-image.nii.gz", folder=raw / folder)
    for number, folder in [(2, "ribfrac-train-labels-1/Part1"), (421, "ribfrac-val-labels")]:
        write_nifti(mask if number == 2 else mask * 0, f"RibFrac{number}-label.nii.gz", folder=raw / folder)
    header = "public_id,label_id,label_code\n"
    rows = "RibFrac2,0,0\nRibFrac2,1,-1\nRibFrac2,2,4\n"
    (raw / "ribfrac-train-info-1.csv").write_text(header + rows)
    (raw / "ribfrac-val-info.csv").write_text(header + "RibFrac421,0,0\n")
    store = stored(raw, tmp_path / "store")
    assert store.classes == ("fracture",)
    # Instance 1 is of two parts and stays one fracture.
    assert boxes_in_file(store, "RibFrac2") == [[2, 3, 2, 7, 7, 6], [9, 1, 1, 11, 2, 2]]
    assert {name: ids for name, ids in store.splits.items() if ids} == {
        "train": ("RibFrac2",),
        "val": ("RibFrac421",),
        "unlabelled": ("RibFrac501",),
    }


@pytest.mark.parametrize(
    ("name", "place", "labels"),
    [
        ("kits21", "kits21/data", "aggregated_MAJ_seg.nii.gz"),
        ("kits21", "data", "aggregated_MAJ_seg.nii.gz"),
        ("kits23", "dataset", "segmentation.nii.gz"),
        ("kits23", "", "segmentation.nii.gz"),
    ],
)
def test_kits(tmp_path, write_nifti, name, place, labels):
    raw = tmp_path / name
    mask = organ_with_lesion()
    mask[8, 8, 6] = 3
    write_nifti(scan(), "imaging.nii.gz", folder=raw / place / "case_00000")
    write_nifti(mask, labels, folder=raw / place / "case_00000")
    store = stored(raw, tmp_path / "store")
    assert store.classes == ("tumor", "cyst")
    assert boxes_in_file(store, "case_00000") == [*LESIONS, [8, 8, 6, 9, 9, 7]]
    assert store.case("case_00000").labels.tolist() == [0, 0, 1]


def test_kits_by_another_vote_and_with_images_not_yet_downloaded(tmp_path, write_nifti):
    folder = tmp_path / "kits21/data/case_00000"
    for labels in ("aggregated_MAJ_seg.nii.gz", "aggregated_OR_seg.nii.gz"):
        write_nifti(organ_with_lesion(), labels, folder=folder)
    assert "run the challenge's download script" in read_raw(tmp_path).cases[0].problem
    write_nifti(scan(), "imaging.nii.gz", folder=folder)
    (case,) = read_raw(tmp_path, options={"labels": "aggregated_OR_seg.nii.gz"}).cases
    assert case.labels == folder / "aggregated_OR_seg.nii.gz"


@pytest.mark.parametrize(
    ("name", "task", "labels", "classes"),
    [
        ("msd_liver", "Task03_Liver", {"0": "background", "1": "liver", "2": "cancer"}, ("liver tumor",)),
        ("msd_lung", "Task06_Lung", {"0": "background", "1": "cancer"}, ("lung tumor",)),
        ("msd_pancreas", "Task07_Pancreas", {"0": "background", "1": "pancreas", "2": "cancer"}, ("pancreas tumor",)),
        (
            "msd_hepatic_vessel",
            "Task08_HepaticVessel",
            {"0": "background", "1": "Vessel", "2": "Tumour"},
            ("liver tumor",),
        ),
        ("msd_colon", "Task10_Colon", {"0": "background", "1": "colon cancer primaries"}, ("colon cancer",)),
    ],
)
def test_msd(tmp_path, write_nifti, name, task, labels, classes):
    raw, prefix = tmp_path / task, task.partition("_")[2].lower()
    organ, lesion = (1, 2) if len(labels) == 3 else (0, 1)
    write_nifti(scan(), f"imagesTr/{prefix}_001.nii.gz", folder=raw)
    write_nifti(organ_with_lesion(organ, lesion), f"labelsTr/{prefix}_001.nii.gz", folder=raw)
    write_nifti(scan(1), f"imagesTs/{prefix}_002.nii.gz", folder=raw)
    entry = {"image": f"./imagesTr/{prefix}_001.nii.gz", "label": f"./labelsTr/{prefix}_001.nii.gz"}
    description = {"name": task[7:], "tensorImageSize": "3D", "modality": {"0": "CT"}, "labels": labels}
    (raw / "dataset.json").write_text(json.dumps({**description, "training": [entry]}))
    store = stored(raw, tmp_path / "store")
    assert (store.classes, store.channel_names) == (classes, ("CT",))
    assert boxes_in_file(store, f"{prefix}_001") == LESIONS
    assert store.splits["unlabelled"] == (f"{prefix}_002",)
    # Named by the folder above it, and refused where it is another task.
    assert read_raw(tmp_path, dataset=name).classes == classes
    other = "msd_colon" if name != "msd_colon" else "msd_lung"
    with pytest.raises(UserError, match=r"dataset.json lists no training cases named"):
        read_raw(raw, dataset=other)


def test_lits_as_originally_released(tmp_path, write_nifti):
    raw = tmp_path / "lits"
    for number, batch in [(10, "Training Batch 1"), (2, "Training Batch 2")]:
        write_nifti(scan(number), f"volume-{number}.nii", folder=raw / batch)
        write_nifti(
            organ_with_lesion(lesion=2 if number == 10 else 1), f"segmentation-{number}.nii", folder=raw / batch
        )
    write_nifti(scan(3), "test-volume-0.nii", folder=raw / "LITS-Challenge-Test-Data")
    store = stored(raw, tmp_path / "store")
    assert store.classes == ("liver tumor",)
    assert boxes_in_file(store, "volume-10") == LESIONS
    assert boxes_in_file(store, "volume-2") == []
    assert store.splits["unlabelled"] == ("test-volume-0",)
    (raw / "Training Batch 1/segmentation-10.nii").unlink()
    assert [case.problem for case in read_raw(raw).cases if case.problem] == ["segmentation-10.nii is missing"]


def test_btcv(tmp_path, write_nifti):
    raw = tmp_path / "RawData"
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 1, 1], mask[8, 8, 6], mask[5, 5, 5] = 13, 13, 4
    write_nifti(scan(), "img0001.nii.gz", folder=raw / "Training/img")
    write_nifti(mask, "label0001.nii.gz", folder=raw / "Training/label")
    write_nifti(scan(1), "img0061.nii.gz", folder=raw / "Testing/img")
    store = stored(raw, tmp_path / "store")
    assert len(store.classes) == 13
    case = store.case("img0001")
    assert [store.classes[label] for label in case.labels] == ["gallbladder", "left adrenal gland"]
    assert boxes_in_file(store, "img0001") == [[5, 5, 5, 6, 6, 6], [1, 1, 1, 9, 9, 7]]  # all of an organ is one object
    assert store.splits["unlabelled"] == ("img0061",)


def test_pn9(tmp_path):
    raw, tables = tmp_path / "pn9", tmp_path / "pn9/split_full_with_nodule_9classes"
    (raw / "full").mkdir(parents=True)
    tables.mkdir()
    grey = np.zeros((1, 8, 10, 12), np.uint8)
    grey[0, 3, 4, 5] = 255
    for number, pid in enumerate(("00001", "00002", "00003")):
        grey[0, 0, 0, 0] = 100 + number
        np.save(raw / f"full/{pid}_zoom.npy", grey)
    header = "pid,nodule_class,xmin,xmax,ymin,ymax,zmin,zmax,nodule_id\n"
    (tables / "train_anno.csv").write_text(f"{header}1,3-10SN,5,5,4,4,3,3,0\n2,0,0,0,0,0,0,0,0\n")
    (tables / "test_anno.csv").write_text(f"{header}3,CN,1,4,2,6,0,7,0\n")
    for split, pid in [("train", "00001"), ("val", "00002"), ("test", "00003")]:
        (tables / f"{split}.txt").write_text(f"{pid}\n")
    store = stored(raw, tmp_path / "store")
    case = store.case("00001")
    assert case.boxes.tolist() == [[3, 4, 5, 4, 5, 6]]
    assert (case.read_image()[0] == 600).nonzero() == (3, 4, 5)  # 255 is 600 HU
    assert case.read_image().min() == -1024  # 0 is -1200 HU, cut at air
    assert case.grid.spacing_mm == (1, 1, 1)
    assert store.case("00003").boxes.tolist() == [[0, 2, 1, 8, 7, 5]]
    assert store.splits == {
        "train": ("00001",),
        "val": ("00002",),
        "test": ("00003",),
    }
    assert store.entries["00002"]["num_objects"] == 0
    # What lies beside an array is none of its case: with 8,798 in one folder the files of all would be those of each.
    np.save(raw / "full/00004_zoom.npy", grey)
    again = prepare(raw, tmp_path / "store")
    assert (again.prepared, again.reused) == (0, 3)
    grey[0, 7, 7, 7] = 50
    np.save(raw / "full/00002_zoom.npy", grey)
    assert prepare(raw, tmp_path / "store").again == {"00002": "its raw files changed"}
    np.save(raw / "full/00001_zoom.npy", np.array([{"a": 1}], dtype=object))
    assert "no plain .npy array" in prepare(raw, tmp_path / "again").skipped[0]["reason"]


def test_cta_a_with_and_without_its_table(tmp_path, write_nifti):
    raw = tmp_path / "cta_a"
    for number, case_id in enumerate(("P001", "P101")):
        write_nifti(scan(number), f"cta_img/{case_id}.nii.gz", folder=raw)
        write_nifti(organ_with_lesion(0, 1), f"ane_seg/{case_id}.nii.gz", folder=raw)
    assert [case.split for case in read_raw(raw).cases] == ["train", "train"]
    (raw / "aneurysm_seg.csv").write_text(
        "subset,id,hospital,cta_img_file,aneurysm_seg_file\n"
        "train,P001,hos_1,cta_img/P001.nii.gz,ane_seg/P001.nii.gz\n"
        "eval,P101,hos_2,cta_img/P101.nii.gz,ane_seg/P101.nii.gz\n"
    )
    store = stored(raw, tmp_path / "store")
    assert store.classes == ("aneurysm",)
    assert boxes_in_file(store, "P001") == LESIONS
    assert (store.splits["train"], store.splits["val"]) == (("P001",), ("P101",))


def test_ct_rate(tmp_path, write_nifti):
    raw = tmp_path / "CT-RATE"
    for name in ("train_1_a_1", "train_1_a_2", "train_12_b_1"):
        patient, letter = name.rsplit("_", 2)[0], name.rsplit("_", 1)[0]
        write_nifti(scan(len(name) + int(name[-1])), f"dataset/train/{patient}/{letter}/{name}.nii.gz", folder=raw)
    fixed = write_nifti(scan(), "dataset/train_fixed/train_1/train_1_a/train_1_a_1.nii.gz", folder=raw)
    write_nifti(scan(7), "dataset/valid/valid_1/valid_1_a/valid_1_a_1.nii.gz", folder=raw)
    dataset = read_raw(raw)
    assert dataset.classes == ()
    assert {case.id: (case.patient, case.split) for case in dataset.cases} == {
        "train_1_a_1": ("train_1", "train"),
        "train_1_a_2": ("train_1", "train"),
        "train_12_b_1": ("train_12", "train"),
        "valid_1_a_1": ("valid_1", "val"),
    }
    assert next(case for case in dataset.cases if case.id == "train_1_a_1").images == (fixed,)
    assert Store(stored(raw, tmp_path / "store").path).case("train_12_b_1").sidecar["patient"] == "train_12"


def test_totalsegmentator(tmp_path, write_nifti, shared_data):
    raw = tmp_path / "Totalsegmentator_dataset"
    for name in ("s0000", "s0001"):
        write_nifti(scan(), f"{name}/ct.nii.gz", folder=raw)
        write_nifti(organ_with_lesion(), f"{name}/segmentations/liver.nii.gz", folder=raw)
    (raw / "meta.csv").write_text("image_id;age;gender;split\ns0000;60;f;train\ns0001;61;m;test\n")
    dataset = read_raw(raw)
    assert [(case.id, case.split, case.labels) for case in dataset.cases] == [
        ("s0000", "train", None),
        ("s0001", "test", None),
    ]
    real = read_raw(shared_data / "totalsegmentator")
    assert [case.id for case in real.cases] == ["example_ct", "example_ct_sm"]


def test_abdomenatlas_and_flare(tmp_path, write_nifti):
    for name in ("BDMAP_00000001", "BDMAP_00000002"):
        write_nifti(scan(), f"{name}/ct.nii.gz", folder=tmp_path / "AbdomenAtlas1.0Mini")
        write_nifti(organ_with_lesion(), f"{name}/segmentations/liver.nii.gz", folder=tmp_path / "AbdomenAtlas1.0Mini")
    assert [case.id for case in read_raw(tmp_path / "AbdomenAtlas1.0Mini").cases] == [
        "BDMAP_00000001",
        "BDMAP_00000002",
    ]
    flare = tmp_path / "FLARE22"
    write_nifti(scan(), "Training/FLARE22_LabeledCase50/images/FLARE22_Tr_0001_0000.nii.gz", folder=flare)
    write_nifti(organ_with_lesion(), "Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_0001.nii.gz", folder=flare)
    write_nifti(scan(), "Training/FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz", folder=flare)
    assert [case.id for case in read_raw(flare).cases] == [
        "Training__FLARE22_LabeledCase50__images__FLARE22_Tr_0001",
        "Training__FLARE22_UnlabeledCase1-1000__Case_00001",
    ]
