"""The layout of nnU-Net and of the Medical Segmentation Decathlon.

RAW/dataset.json               labels (name -> value, or value -> name), channel_names or modality
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

from medpretrain3d.data.importers.base import (
    NIFTI_ENDINGS,
    OBJECT_RULES,
    ObjectRule,
    RawCase,
    RawDataset,
    channel_files,
    nifti_files,
    stem,
)
from medpretrain3d.errors import UserError

SPLIT_FILES = ("splits.json", "splits_final.json")


def read_nnunet(raw: Path, fold: int = 0) -> RawDataset | None:
    """Read the layout; None where `dataset.json` or `imagesTr` is missing.

    `dataset.json` may say `"objects": "labels"` (each label value is one object, as for organs) or `"instances": true`.
    Where it lists its training cases, as MSD's does, only those are used.

    Args:
        raw: the folder.
        fold: which fold of the splits file.

    Raises:
        UserError: a damaged json file, no usable labels in it, or a fold that does not exist.
    """
    if not (raw / "dataset.json").is_file() or not (raw / "imagesTr").is_dir():
        return None
    dataset = _read_json(raw / "dataset.json")
    if not isinstance(dataset, dict):
        raise UserError(f"{raw / 'dataset.json'}: wanted an object with labels, got {type(dataset).__name__}")
    names, class_of_value = _classes(raw, dataset)
    rule = _object_rule(raw, dataset)
    images_tr = channel_files(nifti_files(raw / "imagesTr"))
    fold_of = _fold(raw, fold, images_tr)

    cases = []
    for case_id in _listed(dataset) or sorted(images_tr):
        case = _case(
            raw, "Tr", case_id, images_tr.get(case_id, ()), rule, class_of_value, fold_of.get(case_id, "train")
        )
        cases.append(case)
    for case_id, images in sorted(channel_files(nifti_files(raw / "imagesTs")).items()):
        if any((raw / "labelsTs" / f"{case_id}{ending}").is_file() for ending in NIFTI_ENDINGS):
            cases.append(_case(raw, "Ts", case_id, images, rule, class_of_value, "test"))
        else:
            cases.append(RawCase(case_id, images, split="unlabelled"))
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int)) if isinstance(channels, dict) else ()
    return RawDataset(names, tuple(cases), rule, channel_names)


def _case(
    raw: Path,
    suffix: str,
    case_id: str,
    images: tuple[Path, ...],
    rule: ObjectRule,
    class_of_value: Mapping[int, int],
    split: str,
) -> RawCase:
    folder = raw / f"labels{suffix}"
    labels = next((path for ending in NIFTI_ENDINGS if (path := folder / f"{case_id}{ending}").is_file()), None)
    if not images:
        return RawCase(case_id, (), problem=f"dataset.json lists it, but images{suffix} has no file of that name")
    if labels is None:
        return RawCase(case_id, images, problem=f"no label file {folder.name}/{case_id}.nii.gz")
    if rule != "instances":
        return RawCase(case_id, images, labels, class_of_value, split)
    table = folder / f"{case_id}.json"
    try:
        classes = {int(number): int(label) for number, label in _read_json(table)["instances"].items()}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return RawCase(
            case_id,
            images,
            problem=f'{folder.name}/{table.name}: wanted {{"instances": {{"1": 0}}}}, the class of each id ({error})',
        )
    num_classes = len(class_of_value)
    strange = sorted(label for label in set(classes.values()) if not 0 <= label < num_classes)
    if strange:
        reason = f"{folder.name}/{table.name}: class {strange[0]}, dataset.json has classes 0 to {num_classes - 1}"
        return RawCase(case_id, images, problem=reason)
    return RawCase(case_id, images, labels, classes, split)


def _listed(dataset: Mapping[str, Any]) -> list[str]:
    """Ids of the training cases that `dataset.json` names; only names are taken from it, never places of files."""
    listed = dataset.get("training")
    if not isinstance(listed, list):
        return []
    files = [entry["image"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("image"), str)]
    return sorted({stem(Path(file)) for file in files})


def _classes(raw: Path, dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the classes in the order of their values, and the class of each value."""
    path, labels = raw / "dataset.json", dataset.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(f'{path}: has no labels; wanted for example {{"background": 0, "nodule": 1}}')
    try:
        if all(str(key).isdigit() for key in labels):  # MSD and nnU-Net v1: value -> name
            values = {str(name): int(value) for value, name in labels.items()}
        else:
            values = {str(name): int(value) for name, value in labels.items()}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: labels {labels}: wanted one whole number per name; regions are not objects"
        ) from error
    if len(set(values.values())) != len(labels) or min(values.values()) < 0:
        raise UserError(f"{path}: labels {labels}: wanted a different name and a different value from 0 on for each")
    # nnU-Net's `ignore` is no class: cases that hold its value are left out, for it may hide objects. An instance data
    # set has no label values, so it may count its classes from 0 without a background.
    is_background = (
        (lambda name, value: name == "background") if dataset.get("instances") else (lambda name, value: value == 0)
    )
    names = [
        name
        for name in sorted(values, key=lambda name: values[name])
        if not is_background(name, values[name]) and name != "ignore"
    ]
    if not 1 <= len(names) <= 254:
        raise UserError(f"{path}: labels {labels}: wanted 1 to 254 classes beside the background, got {len(names)}")
    return tuple(names), {values[name]: index for index, name in enumerate(names)}


def _object_rule(raw: Path, dataset: Mapping[str, Any]) -> ObjectRule:
    rule = "instances" if dataset.get("instances") else dataset.get("objects", "components")
    if rule not in OBJECT_RULES:
        raise UserError(f"{raw / 'dataset.json'}: objects is {rule!r}, wanted one of {', '.join(OBJECT_RULES)}")
    return rule


def _fold(raw: Path, fold: int, known: Mapping[str, Any]) -> dict[str, str]:
    """Split of each case that the splits file names; ids without files are ignored, so a part of a data set works."""
    path = next((raw / name for name in SPLIT_FILES if (raw / name).is_file()), None)
    if path is None:
        if fold:
            raise UserError(
                f"{raw}: --fold {fold}, but there is neither {' nor '.join(SPLIT_FILES)}; write one or use 0"
            )
        return {}
    folds = _read_json(path)
    folds = [folds] if isinstance(folds, dict) else folds
    if not isinstance(folds, list) or not 0 <= fold < len(folds):
        raise UserError(f"{path}: has no fold {fold}; it has {len(folds)}, counted from 0")
    chosen = folds[fold]
    if not isinstance(chosen, dict) or not {"train", "val"} <= set(chosen):
        raise UserError(f'{path}: fold {fold}: wanted {{"train": [ids], "val": [ids]}}')
    twice = set(chosen["train"]) & set(chosen["val"])
    if twice:
        raise UserError(f"{path}: fold {fold}: '{min(twice)}' is in train and in val; keep one of them")
    splits = {case_id: split for split in ("train", "val") for case_id in chosen[split]}
    if splits and not set(splits) & set(known):
        raise UserError(
            f"{path}: fold {fold}: no id is that of a file in imagesTr; wanted ids like '{next(iter(known), '')}'"
        )
    return splits


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error}); correct it") from error
