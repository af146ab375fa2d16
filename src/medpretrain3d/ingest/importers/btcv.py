"""BTCV, "Beyond the Cranial Vault": thirteen abdominal organs in 30 CTs, 20 more without labels (Landman et al., 2015).

All voxels of an organ are one object. Left and right kidney and adrenal gland are different classes: the left-right
axis must not be mirrored.
"""

from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.files import by_stem, twice
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers import find_volumes

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
    by_name = by_stem(find_volumes(raw, recursive=True))
    cases = []
    for name in sorted(name for name in by_name if re.fullmatch(r"img\d+", name)):
        label_name = f"label{name[3:]}"
        images, labels = by_name[name], by_name.get(label_name, [])
        problem = twice(raw, images) or twice(raw, labels)
        # Only the test images come without labels.
        split = "train" if labels else "unlabelled"
        cases.append(
            RawCase(name, (images[0],), next(iter(labels), None), CLASS_OF_VALUE, split=split, problem=problem)
        )
    if not any(case.labels for case in cases):
        raise Misplaced("no pair img0001.nii.gz and label0001.nii.gz")
    for name in sorted(name for name in by_name if re.fullmatch(r"label\d+", name)):
        if f"img{name[5:]}" not in by_name:
            problem = f"{name} has no image img{name[5:]}.nii.gz"
            cases.append(RawCase(f"img{name[5:]}", (), by_name[name][0], problem=problem))
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
        patterns=("**/img/img[0-9]*.nii.gz", "**/label/label[0-9]*.nii.gz"),
        read=read_btcv,
        page="""\
Thirteen abdominal organs in 30 CTs, 20 more without labels (Landman et al., 2015). All voxels of an organ are one
object.
Get it: synapse.org, syn3193805, file RawData.zip (registration).
Licence: the terms of the Synapse project.
Errata: left and right kidney and adrenal gland are different classes: the recipe does not mirror left and right.

```
RAW/Training/img/img0001.nii.gz
RAW/Training/label/label0001.nii.gz
RAW/Testing/img/img0061.nii.gz
```""",
    ),
)
