"""BTCV, "Beyond the Cranial Vault": thirteen abdominal organs in 30 CTs, 20 more without labels (Landman et al., 2015).

All voxels of an organ are one object. Left and right kidney and adrenal gland are different classes: the left-right
axis must not be mirrored.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.layout import Layout, Misplaced
from medpretrain3d.data.readers import find_volumes, volume_stem

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
"""In the order of the label values 1 to 13."""
CLASS_OF_VALUE = {value: label for label, value in enumerate(range(1, len(ORGANS) + 1))}


def read_btcv(raw: Path) -> RawDataset:
    """Read the layout; `img` and `label` may lie under Training and Testing at any depth.

    Raises:
        Misplaced: no labelled image below the folder.
    """
    by_name = {volume_stem(path): path for path in find_volumes(raw, recursive=True)}
    cases = []
    for name, image in sorted(by_name.items()):
        if name.startswith("img") and name[3:].isdigit():
            labels = by_name.get(f"label{name[3:]}")
            # Only the test images come without labels.
            cases.append(RawCase(name, (image,), labels, CLASS_OF_VALUE, split="train" if labels else "unlabelled"))
    if not any(case.labels for case in cases):
        raise Misplaced("no pair img0001.nii.gz and label0001.nii.gz")
    return RawDataset(ORGANS, tuple(cases), "labels", ("CT",))


LAYOUTS = (
    Layout(
        name="btcv",
        kind="detection",
        classes=ORGANS,
        licence="Synapse terms of syn3193805 (registration)",
        wanted="""  RAW/Training/img/img0001.nii.gz     (RAW/RawData/Training/... will do)
  RAW/Training/label/label0001.nii.gz
  RAW/Testing/img/img0061.nii.gz      (without labels, may be missing)""",
        signs=("**/img/img[0-9]*.nii.gz", "**/label/label[0-9]*.nii.gz"),
        read=read_btcv,
    ),
)
