"""KiTS21 and KiTS23: kidney tumours and cysts in 300 and 489 CTs (Heller et al., 2021, 2023).

Values: 1 kidney, 2 tumour, 3 cyst. The kidney is anatomy; each connected component of tumour or cyst is an object.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.ingest.importers.base import ANATOMY, RawCase, RawDataset
from medpretrain3d.ingest.importers.layout import Layout, Misplaced

CLASSES = ("tumor", "cyst")
CLASS_OF_VALUE = {1: ANATOMY, 2: 0, 3: 1}
PLACES = ("", "data/", "dataset/", "kits21/data/")
"""Where the cases lie below the folder that was given: the challenge's repository, or a part of it."""


def read_kits21(raw: Path, labels: str = "aggregated_MAJ_seg.nii.gz") -> RawDataset:
    """Read the layout of KiTS21.

    Args:
        raw: the folder.
        labels: the vote of three readers, or their union `aggregated_OR_seg.nii.gz` or intersection `..._AND_...`.

    Raises:
        Misplaced: no folder of cases, or none with such labels.
    """
    return _read(raw, labels)


def read_kits23(raw: Path) -> RawDataset:
    """Read the layout of KiTS23.

    Raises:
        Misplaced: no folder of cases, or none with labels.
    """
    return _read(raw, "segmentation.nii.gz")


def _read(raw: Path, label_name: str) -> RawDataset:
    folders = sorted(path for place in PLACES for path in raw.glob(f"{place}case_*") if path.is_dir())
    if not any((folder / label_name).is_file() for folder in folders):
        raise Misplaced(f"no folder case_00000 with {label_name}")
    return RawDataset(CLASSES, tuple(_case(folder, label_name) for folder in folders), channel_names=("CT",))


def _case(folder: Path, label_name: str) -> RawCase:
    image, labels = folder / "imaging.nii.gz", folder / label_name
    if not image.is_file():
        return RawCase(folder.name, (), problem="imaging.nii.gz is missing; run the challenge's download script")
    if not labels.is_file() and not labels.is_symlink():
        return RawCase(folder.name, (image,), split="unlabelled")
    return RawCase(folder.name, (image,), labels, CLASS_OF_VALUE)


LAYOUTS = (
    Layout(
        name="kits21",
        kind="detection",
        classes=CLASSES,
        licence="CC BY-NC-SA 4.0",
        wanted="""  RAW/kits21/data/case_00000/imaging.nii.gz   (RAW may also be the folder of cases)
  RAW/kits21/data/case_00000/aggregated_MAJ_seg.nii.gz
  ...""",
        patterns=("**/case_[0-9][0-9][0-9][0-9][0-9]/aggregated_MAJ_seg.nii.gz",),
        read=read_kits21,
        page="""\
Kidney tumours and cysts in 300 CTs (Heller et al., 2021). Values: 1 kidney (no object), 2 tumour, 3 cyst.
Get it: the repository of the challenge, kits21.kits-challenge.org, whose script downloads the images.
Licence: CC BY-NC-SA 4.0.
Errata: the cases are those of KiTS19, newly labelled, and part of KiTS23: do not train on one and test on another.

```
RAW/kits21/data/case_00000/imaging.nii.gz
RAW/kits21/data/case_00000/aggregated_MAJ_seg.nii.gz      or --option labels=aggregated_OR_seg.nii.gz
```""",
    ),
    Layout(
        name="kits23",
        kind="detection",
        classes=CLASSES,
        licence="CC BY-NC-SA 4.0",
        wanted="""  RAW/dataset/case_00000/imaging.nii.gz   (RAW may also be the folder of cases)
  RAW/dataset/case_00000/segmentation.nii.gz
  ...""",
        patterns=("**/case_[0-9][0-9][0-9][0-9][0-9]/segmentation.nii.gz",),
        read=read_kits23,
        page="""\
The same with 489 training cases, ids 0 to 299 and 400 to 588.
Get it: the repository of the challenge, kits23.kits-challenge.org, whose script downloads the images.
Licence: CC BY-NC-SA 4.0.
Errata: holds all cases of KiTS21.

```
RAW/dataset/case_00000/imaging.nii.gz
RAW/dataset/case_00000/segmentation.nii.gz
```""",
    ),
)
