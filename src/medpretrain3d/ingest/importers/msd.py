"""Medical Segmentation Decathlon (Antonelli et al., 2022): the five tasks with lesions in CT.

The layout is nnU-Net's. Which values are objects: lesions, each connected component one. Organs and vessels around them
are anatomy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import ANATOMY, RawDataset
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.ingest.importers.nnunet import list_cases, listed_cases, read_description
from medpretrain3d.store.readers import find_volumes, volume_stem

TASKS = {
    "liver": ("Task03_Liver", "liver tumor", {1: ANATOMY, 2: 0}, {1: "liver", 2: "cancer"}),
    "lung": ("Task06_Lung", "lung tumor", {1: 0}, {1: "cancer"}),
    "pancreas": ("Task07_Pancreas", "pancreas tumor", {1: ANATOMY, 2: 0}, {1: "pancreas", 2: "cancer"}),
    "hepatic_vessel": ("Task08_HepaticVessel", "liver tumor", {1: ANATOMY, 2: 0}, {1: "vessel", 2: "tumour"}),
    "colon": ("Task10_Colon", "colon cancer", {1: 0}, {1: "colon cancer primaries"}),
}
"""Per task: its folder, the class, what the values of its label maps mean, and what its dataset.json calls them."""


PAGES = {
    "liver": """\
Task 3 of the Medical Segmentation Decathlon (Antonelli et al., 2022), 131 CTs with labels. Values: 1 liver (no
object), 2 cancer.
Get it: medicaldecathlon.com, Task03_Liver.
Licence: CC BY-SA 4.0.
Errata: the cases are those of LiTS; do not mix the two.

```
RAW/dataset.json
RAW/imagesTr/liver_0.nii.gz
RAW/labelsTr/liver_0.nii.gz
RAW/imagesTs/liver_132.nii.gz     without labels
```""",
    "lung": """\
Task 6, 63 CTs with labels. Values: 1 cancer.
Get it: medicaldecathlon.com, Task06_Lung. The tree is that of `msd_liver`, `lung_001.nii.gz`.
Licence: CC BY-SA 4.0.
Errata: none known to us.""",
    "pancreas": """\
Task 7, 281 CTs with labels. Values: 1 pancreas (no object), 2 cancer.
Get it: medicaldecathlon.com, Task07_Pancreas. The tree is that of `msd_liver`, `pancreas_001.nii.gz`.
Licence: CC BY-SA 4.0.
Errata: FLARE's labelled cases come from here.""",
    "hepatic_vessel": """\
Task 8, 303 CTs with labels. Values: 1 vessel (no object), 2 tumour.
Get it: medicaldecathlon.com, Task08_HepaticVessel. The tree is that of `msd_liver`, `hepaticvessel_001.nii.gz`.
Licence: CC BY-SA 4.0.
Errata: none known to us.""",
    "colon": """\
Task 10, 126 CTs with labels. Values: 1 primary colon cancer.
Get it: medicaldecathlon.com, Task10_Colon. The tree is that of `msd_liver`, `colon_001.nii.gz`.
Licence: CC BY-SA 4.0.
Errata: none known to us.""",
}
"""Per task: its section of docs/datasets.md."""


def _layout(name: str) -> Layout:
    folder, class_name, class_of_value, label_names = TASKS[name]

    def read(raw: Path, fold: int = 0) -> RawDataset:
        raw = raw / folder if (raw / folder).is_dir() else raw
        dataset = read_description(raw)
        ids = listed_cases(dataset) or [volume_stem(path) for path in find_volumes(raw / "imagesTr")]
        if not ids or not all(one.startswith(f"{prefix}_") for one in ids):
            raise Misplaced(f"dataset.json lists no training cases named {prefix}_<N>, as {folder} does")
        if other := _other_labels(dataset, label_names):
            raise UserError(f"{raw}: {other}; so it is not {folder}: read it with --dataset nnunet")
        return list_cases(raw, dataset, (class_name,), class_of_value, "components", fold)

    def contradiction(raw: Path) -> str:
        return f"{other}, so it is not {folder}" if (other := _other_labels(read_description(raw), label_names)) else ""

    prefix = folder.partition("_")[2].lower()
    return Layout(
        name=f"msd_{name}",
        kind="detection",
        classes=(class_name,),
        licence="CC BY-SA 4.0",
        wanted=f"""  RAW/dataset.json               (of {folder}; RAW may also be the folder above it)
  RAW/imagesTr/{prefix}_<N>.nii.gz
  RAW/labelsTr/{prefix}_<N>.nii.gz
  RAW/imagesTs/{prefix}_<N>.nii.gz   (without labels)""",
        patterns=("dataset.json", f"imagesTr/{prefix}_[0-9]*.nii.gz", f"labelsTr/{prefix}_[0-9]*.nii.gz"),
        read=read,
        contradiction=contradiction,
        page=PAGES[name],
    )


def _other_labels(dataset: Mapping[str, Any], label_names: Mapping[int, str]) -> str:
    """Return how the labels of `dataset.json` differ from the task's; empty where they do not."""
    labels = dataset.get("labels")
    pairs = labels.items() if isinstance(labels, dict) else ()
    # MSD writes value -> name, nnU-Net name -> value.
    found = {str(value): str(name) for value, name in pairs} | {str(name): str(value) for value, name in pairs}
    values = {int(text) for text in found if text.isdigit() and int(text)}
    if values == set(label_names) and all(found[str(value)].lower() == name for value, name in label_names.items()):
        return ""
    wanted = ", ".join(f"{value} {name}" for value, name in label_names.items())
    return f"dataset.json names the labels {labels}, not {wanted}"


LAYOUTS = tuple(_layout(name) for name in TASKS)
