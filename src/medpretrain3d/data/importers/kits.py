"""KiTS21 and KiTS23: kidney tumours and cysts in 300 and 489 CTs (Heller et al., 2021, 2023).

Values: 1 kidney, 2 tumour, 3 cyst. The kidney is anatomy; each connected component of tumour or cyst is an object.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import ANATOMY, RawCase, RawDataset
from medpretrain3d.data.importers.layout import Layout, Misplaced

CLASSES = ("tumor", "cyst")
CLASS_OF_VALUE = {1: ANATOMY, 2: 0, 3: 1}


def read_kits(raw: Path, labels: str = "segmentation.nii.gz") -> RawDataset:
    """Read the layout; the folder may be the repository of the challenge or its folder of cases.

    Args:
        raw: the folder.
        labels: name of the label file of a case. KiTS21 has a vote of three readers, `aggregated_MAJ_seg.nii.gz`, and
            their union and intersection, `aggregated_OR_seg.nii.gz` and `aggregated_AND_seg.nii.gz`.

    Raises:
        Misplaced: no folder of cases.
    """
    folders = sorted(path for pattern in PLACES for path in raw.glob(f"{pattern}case_*") if path.is_dir())
    if not folders:
        raise Misplaced("no folder case_00000")
    return RawDataset(CLASSES, tuple(_case(folder, labels) for folder in folders), channel_names=("CT",))


PLACES = ("", "data/", "dataset/", "kits21/data/")
"""Where the cases lie below the folder that was given."""


def _case(folder: Path, label_name: str) -> RawCase:
    image, labels = folder / "imaging.nii.gz", folder / label_name
    if not image.is_file():
        return RawCase(folder.name, (), problem="imaging.nii.gz is missing; run the challenge's download script")
    if not labels.is_file():
        return RawCase(folder.name, (image,), split="unlabelled")
    return RawCase(folder.name, (image,), labels, CLASS_OF_VALUE)


def _kits(name: str, labels: str, place: str) -> Layout:
    def read(raw: Path, labels: str = labels) -> RawDataset:
        return read_kits(raw, labels)

    return Layout(
        name=name,
        kind="detection",
        classes=CLASSES,
        licence="CC BY-NC-SA 4.0",
        wanted=f"""  RAW/{place}case_00000/imaging.nii.gz   (RAW may also be the folder of cases)
  RAW/{place}case_00000/{labels}
  ...""",
        signs=(f"**/case_*/{labels}",),
        read=read,
    )


LAYOUTS = (
    _kits("kits21", "aggregated_MAJ_seg.nii.gz", "kits21/data/"),
    _kits("kits23", "segmentation.nii.gz", "dataset/"),
)
