"""The layout of an nnDetection task.

RAW/dataset.json                            labels counted from 0 without a background, modalities
RAW/raw_splitted/imagesTr/<case>_0000.nii.gz
RAW/raw_splitted/labelsTr/<case>.nii.gz     instance ids
RAW/raw_splitted/labelsTr/<case>.json       {"instances": {"1": 0}}: the class of each instance
RAW/raw_splitted/imagesTs, labelsTs         the test split

`preprocessed/splits_final.pkl` is not read: a pickle from elsewhere runs whatever it likes. Give the same folds as
raw_splitted/splits.json.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import RawDataset
from medpretrain3d.data.importers.layout import Layout, need
from medpretrain3d.data.importers.nnunet import DESCRIPTION, classes_of, list_cases, read_description


def read_nndetection(raw: Path, fold: int = 0) -> RawDataset:
    """Read the layout.

    Raises:
        UserError: a damaged json file, no usable labels in it, or a fold that does not exist.
    """
    dataset = read_description(raw)
    names, class_of_value = classes_of(raw / DESCRIPTION, dataset, has_background=False)
    return list_cases(need(raw / "raw_splitted"), dataset, names, class_of_value, "instances", fold)


LAYOUTS = (
    Layout(
        name="nndetection",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/dataset.json
  RAW/raw_splitted/imagesTr/<case>_0000.nii.gz
  RAW/raw_splitted/labelsTr/<case>.nii.gz, <case>.json
  RAW/raw_splitted/imagesTs, labelsTs   (the test split, may be missing)""",
        signs=("dataset.json", "raw_splitted/"),
        read=read_nndetection,
    ),
)
