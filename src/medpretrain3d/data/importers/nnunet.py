"""The layout of nnU-Net and of the Medical Segmentation Decathlon.

    RAW/dataset.json               labels (name -> value, or value -> name), file_ending
    RAW/imagesTr/<id>_0000.nii.gz  (nnU-Net) or <id>.nii.gz (MSD)
    RAW/labelsTr/<id>.nii.gz       label values; with "instances": true instance ids, classes in labelsTr/<id>.json
    RAW/imagesTs, RAW/labelsTs     the test split, where its labels are there; else unlabelled
    RAW/splits.json                optional: a list of folds {"train": [...], "val": [...]}; also splits_final.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.data.importers.base import ObjectRule, RawCase, RawDataset
from medpretrain3d.errors import UserError


def read_nnunet(raw: Path, fold: int = 0) -> RawDataset | None:
    """Read the layout; None where `dataset.json` or `imagesTr` is missing.

    `dataset.json` may say `"objects": "labels"` (each label value is one object, as for organs) or `"instances": true`.

    Args:
        raw: the folder.
        fold: which fold of the splits file.

    Raises:
        UserError: a damaged json file, no labels in it, or a fold that does not exist.
    """
    if not (raw / "dataset.json").is_file() or not (raw / "imagesTr").is_dir():
        return None
    dataset = _read_json(raw / "dataset.json")
    values = _label_values(raw, dataset)
    names = sorted(values, key=lambda name: values[name])
    class_of_value = {values[name]: index for index, name in enumerate(names)}
    rule: ObjectRule = "instances" if dataset.get("instances") else dataset.get("objects", "components")
    val = _validation_ids(raw, fold)

    cases = []
    for suffix in ("Tr", "Ts"):
        ending = dataset.get("file_ending", ".nii.gz")
        for image in sorted((raw / f"images{suffix}").glob(f"*{ending}")):
            case_id = image.name.removesuffix(ending)
            if case_id.startswith("."):
                continue  # resource forks that macOS left in the MSD archives
            if case_id[-5:-4] == "_" and case_id[-4:].isdigit():
                if case_id[-4:] != "0000":
                    continue  # further channels
                case_id = case_id[:-5]
            labels = raw / f"labels{suffix}" / f"{case_id}{ending}"
            split = ("val" if case_id in val else "train") if suffix == "Tr" else "test"
            if not labels.is_file():
                cases.append(RawCase(case_id, image, split="unlabelled"))
                continue
            table = _instance_table(labels, ending) if rule == "instances" else class_of_value
            cases.append(RawCase(case_id, image, labels, table, split))
    return RawDataset(tuple(names), tuple(cases), rule)


def _label_values(raw: Path, dataset: Mapping[str, Any]) -> dict[str, int]:
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(f"{raw / 'dataset.json'}: has no labels; wanted for example {{\"background\": 0, \"nodule\": 1}}")
    try:
        if all(str(key).isdigit() for key in labels):  # MSD and nnU-Net v1: value -> name
            values = {str(name): int(value) for value, name in labels.items()}
        else:
            values = {str(name): int(value) for name, value in labels.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{raw / 'dataset.json'}: labels {labels} must map names to single whole numbers") from error
    return {name: value for name, value in values.items() if value != 0}


def _validation_ids(raw: Path, fold: int) -> set[str]:
    for name in ("splits.json", "splits_final.json"):
        if (raw / name).is_file():
            folds = _read_json(raw / name)
            if not isinstance(folds, list) or not 0 <= fold < len(folds):
                raise UserError(f"{raw / name}: no fold {fold}; it holds {len(folds)} folds, from 0 on")
            return set(folds[fold]["val"])
    return set()


def _instance_table(labels: Path, ending: str) -> dict[int, int]:
    path = labels.with_name(labels.name.removesuffix(ending) + ".json")
    if not path.is_file():
        raise UserError(f'{path}: missing; with "instances": true each label map needs {{"instances": {{"1": 0}}}} beside it')
    return {int(instance): int(label) for instance, label in _read_json(path)["instances"].items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no valid JSON ({error}); mend it") from error
