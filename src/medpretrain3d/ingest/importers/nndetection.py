"""The layout of an nnDetection task.

RAW/dataset.json or dataset.yaml            labels counted from 0 without a background, modalities
RAW/raw_splitted/imagesTr/<case>_0000.nii.gz
RAW/raw_splitted/labelsTr/<case>.nii.gz     instance ids
RAW/raw_splitted/labelsTr/<case>.json       {"instances": {"1": 0}}: the class of each instance
RAW/raw_splitted/imagesTs, labelsTs         the test split

The folders may also lie beside the description, and RAW may be raw_splitted itself.

`preprocessed/splits_final.pkl` is not read: a pickle from elsewhere runs whatever it likes. Give the same folds as
raw_splitted/splits.json.
"""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import RawDataset
from medpretrain3d.ingest.importers.files import read_json
from medpretrain3d.ingest.importers.layout import Layout, require
from medpretrain3d.ingest.importers.nnunet import classes_of, described, list_cases

SPLITTED = "raw_splitted"
DESCRIPTIONS = ("dataset.json", "dataset.yaml", "dataset.yml")


def read_nndetection(raw: Path, fold: int = 0) -> RawDataset:
    """Read the layout.

    Raises:
        UserError: a damaged json file, no usable labels in it, or a fold that does not exist.
    """
    raw = raw.parent if raw.name == SPLITTED and not _descriptions(raw) else raw
    found = _descriptions(raw)
    if len(found) > 1:
        raise UserError(f"{raw}: has {found[0].name} and {found[1].name}; keep one")
    path = require(found[0] if found else raw / DESCRIPTIONS[0])
    dataset = described(path, read_json(path) if path.suffix == ".json" else read_yaml(path, "correct it"))
    names, class_of_value = classes_of(path, dataset, has_background=False)
    folder = raw if (raw / "imagesTr").is_dir() else require(raw / SPLITTED)
    return list_cases(folder, dataset, names, class_of_value, "instances", fold, (path,))


def _descriptions(raw: Path) -> list[Path]:
    return [raw / name for name in DESCRIPTIONS if (raw / name).is_file()]


def _is_description(path: Path) -> bool:
    """Return a description, or the classes of the instances in one label map."""
    return str(path) in DESCRIPTIONS or (path.parent.name == "labelsTr" and path.suffix == ".json")


def _is_images(path: Path) -> bool:
    return str(path) in ("imagesTr", SPLITTED)


def _contradiction(raw: Path) -> str:
    return "-" if (raw / "dataset.json").is_file() and (raw / "imagesTr").is_dir() else ""  # nnU-Net's place for it


LAYOUTS = (
    Layout(
        name="nndetection",
        kind="generic",
        is_described=True,
        classes=(),
        licence="as the data",
        wanted="""  RAW/dataset.json   (or dataset.yaml)
  RAW/raw_splitted/imagesTr/<case>_0000.nii.gz
  RAW/raw_splitted/labelsTr/<case>.nii.gz, <case>.json
  RAW/raw_splitted/imagesTs, labelsTs   (the test split, may be missing)""",
        patterns=(_is_description, _is_images),
        read=read_nndetection,
        contradiction=_contradiction,
        page="""\
An nnDetection task: instance maps, and the class of each instance in a JSON file per case. Classes count from 0.

```
RAW/dataset.json                                {"labels": {"0": "nodule"}, "modalities": {"0": "CT"}, ...}
RAW/raw_splitted/imagesTr/case_0_0000.nii.gz
RAW/raw_splitted/labelsTr/case_0.nii.gz, case_0.json      {"instances": {"1": 0}}
RAW/raw_splitted/imagesTs, labelsTs
```

`dataset.yaml` will do as well, the folders may lie beside it, and RAW may be `raw_splitted` itself.

Its folds are a pickle, which could run code and is not read; give them as `raw_splitted/splits.json`.""",
    ),
)
