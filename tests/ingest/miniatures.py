"""Every raw layout in small: three cases or more, written by the tests, with what can go wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

SHAPE = (12, 10, 8)


@dataclass(frozen=True)
class Miniature:
    """A raw layout in small, and what a fault changes in it."""

    write: Callable[[Path], None]
    image: str
    """File of an image that is then missing."""
    misspelled: tuple[str, str]
    """A file, and its name with an id misspelled."""
    other_class: tuple[str, ...] = ()
    """A text file, a text in it and what then stands there; or a label map that then holds the value 14; or nothing,
    in a corpus."""


def scan(number: int = 0) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 997 + number).astype(np.int16)


def mask(organ: int = 0, lesion: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:9, 1:9, 1:7] = organ
    labels[2:4, 3:6, 2:4] = lesion
    return labels


def nifti(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)  # voxels are LPS millimetres
    return path


def mha(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(scan(number).transpose(2, 1, 0)), path)


def _nnunet(raw: Path) -> None:
    for number, case in enumerate("abc"):
        nifti(raw / f"imagesTr/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"labelsTr/{case}.nii.gz", mask())
    labels = {"background": 0, "nodule": 1}
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    (raw / "splits.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))


def _nndetection(raw: Path) -> None:
    for number, case in enumerate("abc"):
        nifti(raw / f"raw_splitted/imagesTr/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"raw_splitted/labelsTr/{case}.nii.gz", mask())
        (raw / f"raw_splitted/labelsTr/{case}.json").write_text('{"instances": {"1": 0}}')
    (raw / "dataset.yaml").write_text('labels:\n  "0": nodule\nmodalities:\n  "0": CT\n')


def _msd(task: str, labels: dict[str, str], organ: int, lesion: int) -> Callable[[Path], None]:
    def write(raw: Path) -> None:
        prefix = task.partition("_")[2].lower()
        names = [f"{prefix}_{number:03d}" for number in (1, 2, 3)]
        for number, name in enumerate(names):
            nifti(raw / f"imagesTr/{name}.nii.gz", scan(number))
            nifti(raw / f"labelsTr/{name}.nii.gz", mask(organ, lesion))
        listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
        document = {"modality": {"0": "CT"}, "labels": {"0": "background", **labels}, "training": listed}
        (raw / "dataset.json").write_text(json.dumps(document))

    return write


def _msd_miniature(task: str, labels: dict[str, str]) -> Miniature:
    organ, lesion = (1, 2) if len(labels) == 2 else (0, 1)
    prefix = task.partition("_")[2].lower()
    name = labels[str(lesion)]
    return Miniature(
        _msd(task, labels, organ, lesion),
        f"imagesTr/{prefix}_002.nii.gz",
        (f"labelsTr/{prefix}_002.nii.gz", f"labelsTr/{prefix}_02.nii.gz"),
        ("dataset.json", f'"{name}"', f'"{name}s"'),
    )


def _boxes_csv(raw: Path) -> None:
    for number, case in enumerate("abc"):
        nifti(raw / f"{case}.nii.gz", scan(number))
    rows = "".join(f"{case}.nii.gz,nodule,2,3,2,4,6,4,\n" for case in "abc")
    (raw / "boxes.csv").write_text(f"image,label,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox,ignore\n{rows}")


def _coco(raw: Path) -> None:
    document = {
        "images": [{"id": number, "file_name": f"{case}.nii.gz"} for number, case in enumerate("abc")],
        "categories": [{"id": 1, "name": "nodule"}, {"id": 2, "name": "mass"}],
        "annotations": [{"image_id": n, "category_id": 1 + n % 2, "bbox": [2, 3, 2, 2, 3, 2]} for n in range(3)],
    }
    for number, case in enumerate("abc"):
        nifti(raw / f"{case}.nii.gz", scan(number))
    (raw / "annotations.json").write_text(json.dumps(document))


def _pairs(raw: Path) -> None:
    for number, case in enumerate(("p1", "p2", "p3")):
        nifti(raw / f"{case}_ct.nii.gz", scan(number))
        nifti(raw / f"{case}_seg.nii.gz", mask())


def _folder(raw: Path) -> None:
    for number, case in enumerate("abc"):
        nifti(raw / f"{case}.nii.gz", scan(number))


def _luna16(raw: Path) -> None:
    for subset in range(10):
        mha(raw / f"subset{subset}/1.3.6.{subset}.mhd", subset)
    header = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
    rows = "".join(f"1.3.6.{subset},5,4,3,4\n" for subset in range(10))
    (raw / "annotations.csv").write_text(header + rows)
    (raw / "annotations_excluded.csv").write_text(header + "1.3.6.9,8,7,5,-1\n")


def _ribfrac(raw: Path) -> None:
    for number in (1, 2, 421):
        nifti(raw / f"images/RibFrac{number}-image.nii.gz", scan(number))
        nifti(raw / f"labels/RibFrac{number}-label.nii.gz", mask())
    header = "public_id,label_id,label_code\n"
    (raw / "ribfrac-train-info-1.csv").write_text(f"{header}RibFrac1,1,1\nRibFrac2,1,2\n")
    (raw / "ribfrac-val-info.csv").write_text(f"{header}RibFrac421,1,1\n")


def _kits(labels: str) -> Callable[[Path], None]:
    def write(raw: Path) -> None:
        for number in range(3):
            nifti(raw / f"data/case_{number:05d}/imaging.nii.gz", scan(number))
            nifti(raw / f"data/case_{number:05d}/{labels}", mask(1, 2))

    return write


def _lits(raw: Path) -> None:
    for number in range(3):
        nifti(raw / f"Batch 1/volume-{number}.nii", scan(number))
        nifti(raw / f"Batch 1/segmentation-{number}.nii", mask(1, 2))


def _btcv(raw: Path) -> None:
    for number in (1, 2, 3):
        nifti(raw / f"Training/img/img{number:04d}.nii.gz", scan(number))
        nifti(raw / f"Training/label/label{number:04d}.nii.gz", mask(6, 4))


def _pn9(raw: Path) -> None:
    tables = raw / "split_full_with_nodule_9classes"
    tables.mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test"), start=1):
        grey = np.full((1, 8, 10, 12), 90 + number, np.uint8)
        grey[0, 3, 4, 5] = 255
        np.save(raw / f"{number:05d}_zoom.npy", grey)
        (tables / f"{split}.txt").write_text(f"{number:05d}\n")
    header = "pid,nodule_class,xmin,xmax,ymin,ymax,zmin,zmax\n"
    (tables / "train_anno.csv").write_text(f"{header}1,3-10SN,5,5,4,4,3,3\n2,3-10SN,5,5,4,4,3,3\n")
    (tables / "test_anno.csv").write_text(f"{header}3,3-10SN,5,5,4,4,3,3\n")


def _cta_a(raw: Path) -> None:
    rows = ""
    for number in (1, 2, 3):
        nifti(raw / f"cta_img/P{number:03d}.nii.gz", scan(number))
        nifti(raw / f"ane_seg/P{number:03d}.nii.gz", mask())
        rows += f"train,P{number:03d},h,cta_img/P{number:03d}.nii.gz,ane_seg/P{number:03d}.nii.gz\n"
    (raw / "aneurysm_seg.csv").write_text(f"subset,id,hospital,cta_img_file,aneurysm_seg_file\n{rows}")


def _ct_rate(raw: Path) -> None:
    for number in (1, 2, 3):
        nifti(raw / f"dataset/train_fixed/train_{number}/train_{number}_a/train_{number}_a_1.nii.gz", scan(number))


def _totalsegmentator(raw: Path) -> None:
    for number in range(3):
        nifti(raw / f"s{number:04d}/ct.nii.gz", scan(number))
        nifti(raw / f"s{number:04d}/segmentations/liver.nii.gz", mask())
    (raw / "meta.csv").write_text("image_id;split\ns0000;train\ns0001;val\ns0002;test\n")


def _abdomenatlas(raw: Path) -> None:
    for number in (1, 2, 3):
        nifti(raw / f"BDMAP_{number:08d}/ct.nii.gz", scan(number))
        nifti(raw / f"BDMAP_{number:08d}/segmentations/liver.nii.gz", mask())


def _flare(raw: Path) -> None:
    for number in (1, 2, 3):
        nifti(raw / f"FLARE22/images/FLARE22_Tr_{number:04d}_0000.nii.gz", scan(number))
        nifti(raw / f"FLARE22/labels/FLARE22_Tr_{number:04d}.nii.gz", mask())


MINIATURES = {
    "nnunet": Miniature(
        _nnunet,
        "imagesTr/b_0000.nii.gz",
        ("labelsTr/b.nii.gz", "labelsTr/B2.nii.gz"),
        ("labelsTr/b.nii.gz",),
    ),
    "nndetection": Miniature(
        _nndetection,
        "raw_splitted/imagesTr/b_0000.nii.gz",
        ("raw_splitted/labelsTr/b.nii.gz", "raw_splitted/labelsTr/bb.nii.gz"),
        ("raw_splitted/labelsTr/b.json", ": 0", ": 1"),
    ),
    "msd_liver": _msd_miniature("Task03_Liver", {"1": "liver", "2": "cancer"}),
    "msd_lung": _msd_miniature("Task06_Lung", {"1": "cancer"}),
    "msd_pancreas": _msd_miniature("Task07_Pancreas", {"1": "pancreas", "2": "cancer"}),
    "msd_hepatic_vessel": _msd_miniature("Task08_HepaticVessel", {"1": "Vessel", "2": "Tumour"}),
    "msd_colon": _msd_miniature("Task10_Colon", {"1": "colon cancer primaries"}),
    "boxes_csv": Miniature(
        _boxes_csv, "b.nii.gz", ("b.nii.gz", "bb.nii.gz"), ("boxes.csv", "b.nii.gz,nodule", "b.nii.gz,Nodule")
    ),
    "coco": Miniature(
        _coco, "b.nii.gz", ("b.nii.gz", "bb.nii.gz"), ("annotations.json", '"category_id": 2', '"category_id": 3')
    ),
    "pairs": Miniature(_pairs, "p2_ct.nii.gz", ("p2_seg.nii.gz", "q2_seg.nii.gz"), ("p2_seg.nii.gz",)),
    "folder": Miniature(_folder, "b.nii.gz", ("b.nii.gz", "b_seg.nii.gz")),
    "luna16": Miniature(
        _luna16,
        "subset3/1.3.6.3.mhd",
        ("subset3/1.3.6.3.mhd", "subset3/1.3.66.3.mhd"),
        ("annotations.csv", "diameter_mm", "diameter"),
    ),
    "ribfrac": Miniature(
        _ribfrac,
        "images/RibFrac2-image.nii.gz",
        ("labels/RibFrac2-label.nii.gz", "labels/RibFrac22-label.nii.gz"),
        ("labels/RibFrac2-label.nii.gz",),
    ),
    "kits21": Miniature(
        _kits("aggregated_MAJ_seg.nii.gz"),
        "data/case_00001/imaging.nii.gz",
        ("data/case_00001/aggregated_MAJ_seg.nii.gz", "data/case_00001/aggregated_maj.nii.gz"),
        ("data/case_00001/aggregated_MAJ_seg.nii.gz",),
    ),
    "kits23": Miniature(
        _kits("segmentation.nii.gz"),
        "data/case_00001/imaging.nii.gz",
        ("data/case_00001/segmentation.nii.gz", "data/case_00001/segmentatoin.nii.gz"),
        ("data/case_00001/segmentation.nii.gz",),
    ),
    "lits": Miniature(
        _lits,
        "Batch 1/volume-1.nii",
        ("Batch 1/segmentation-1.nii", "Batch 1/segmentation-11.nii"),
        ("Batch 1/segmentation-1.nii",),
    ),
    "btcv": Miniature(
        _btcv,
        "Training/img/img0002.nii.gz",
        ("Training/label/label0002.nii.gz", "Training/label/label0022.nii.gz"),
        ("Training/label/label0002.nii.gz",),
    ),
    "pn9": Miniature(
        _pn9,
        "00002_zoom.npy",
        ("00002_zoom.npy", "0002_zoom.npy"),
        ("split_full_with_nodule_9classes/train_anno.csv", "2,3-10SN", "20,3-10SN"),
    ),
    "cta_a": Miniature(
        _cta_a,
        "cta_img/P002.nii.gz",
        ("ane_seg/P002.nii.gz", "ane_seg/P02.nii.gz"),
        ("aneurysm_seg.csv", "train,P002", "trained,P002"),
    ),
    "ct_rate": Miniature(
        _ct_rate,
        "dataset/train_fixed/train_2/train_2_a/train_2_a_1.nii.gz",
        ("dataset/train_fixed/train_2/train_2_a/train_2_a_1.nii.gz", "dataset/tain_fixed/train_2_a_1.nii.gz"),
    ),
    "totalsegmentator": Miniature(
        _totalsegmentator,
        "s0001/ct.nii.gz",
        ("s0001/ct.nii.gz", "s0001/CT1.nii.gz"),
        ("meta.csv", "s0001;val", "s0001;valid"),
    ),
    "abdomenatlas": Miniature(
        _abdomenatlas, "BDMAP_00000002/ct.nii.gz", ("BDMAP_00000002/ct.nii.gz", "BDMAP_00000002/ct_.nii.gz")
    ),
    "flare": Miniature(
        _flare,
        "FLARE22/images/FLARE22_Tr_0002_0000.nii.gz",
        ("FLARE22/images/FLARE22_Tr_0002_0000.nii.gz", "FLARE22/labels/FLARE22_Tr_0002_0000.nii.gz"),
    ),
}
