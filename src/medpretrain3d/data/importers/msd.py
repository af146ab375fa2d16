"""Medical Segmentation Decathlon (Antonelli et al., 2022): the five tasks with lesions in CT.

The layout is nnU-Net's. Which values are objects: lesions, each connected component one. Organs and vessels around them
are anatomy.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import ANATOMY, RawDataset
from medpretrain3d.data.importers.layout import Layout, Misplaced
from medpretrain3d.data.importers.nnunet import list_cases, read_description
from medpretrain3d.data.readers import volume_stem

TASKS = {
    "liver": ("Task03_Liver", "liver tumor", {1: ANATOMY, 2: 0}),
    "lung": ("Task06_Lung", "lung tumor", {1: 0}),
    "pancreas": ("Task07_Pancreas", "pancreas tumor", {1: ANATOMY, 2: 0}),
    "hepatic_vessel": ("Task08_HepaticVessel", "liver tumor", {1: ANATOMY, 2: 0}),
    "colon": ("Task10_Colon", "colon cancer", {1: 0}),
}
"""Per task: its folder, the class, and what the values of its label maps mean."""


def _layout(name: str) -> Layout:
    folder, class_name, class_of_value = TASKS[name]

    def read(raw: Path, fold: int = 0) -> RawDataset:
        raw = raw / folder if (raw / folder).is_dir() else raw
        dataset = read_description(raw)
        listed = dataset.get("training")
        if not listed or not all(volume_stem(Path(str(entry["image"]))).startswith(f"{prefix}_") for entry in listed):
            raise Misplaced(f"dataset.json lists no training cases named {prefix}_<N>, as {folder} does")
        return list_cases(raw, dataset, (class_name,), class_of_value, "components", fold)

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
        signs=("dataset.json", f"imagesTr/{prefix}_[0-9]*.nii.gz", f"labelsTr/{prefix}_[0-9]*.nii.gz"),
        read=read,
    )


LAYOUTS = tuple(_layout(name) for name in TASKS)
