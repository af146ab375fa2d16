"""The layout of nnU-Net, which is also that of the Medical Segmentation Decathlon.

RAW/dataset.json               labels (name -> value, or value -> name), channel_names or modality
RAW/imagesTr/<id>_0000.nii.gz  (nnU-Net) or <id>.nii.gz (MSD)
RAW/labelsTr/<id>.nii.gz       label values; with "instances": true instance ids, classes in labelsTr/<id>.json
RAW/imagesTs, RAW/labelsTs     the test split, where its labels are there; else unlabelled
RAW/splits.json                optional: a list of folds {"train": [...], "val": [...]}; also splits_final.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.data.importers.base import IGNORE, OBJECT_RULES, ObjectRule, RawCase, RawDataset
from medpretrain3d.data.importers.files import channel_files, read_json
from medpretrain3d.data.importers.layout import Layout, need
from medpretrain3d.data.readers import VOLUME_ENDINGS, find_volumes, volume_stem
from medpretrain3d.errors import UserError

DESCRIPTION = "dataset.json"
SPLIT_FILES = ("splits.json", "splits_final.json")


def read_nnunet(raw: Path, fold: int = 0) -> RawDataset:
    """Read the layout.

    `dataset.json` may say `"objects": "labels"` (each label value is one object, as for organs) or `"instances": true`.
    Where it lists its training cases, as MSD's does, only those are used.

    Args:
        raw: the folder.
        fold: which fold of the splits file decides on train and val.

    Raises:
        UserError: a damaged json file, no usable labels in it, or a fold that does not exist.
    """
    dataset = read_description(raw)
    names, class_of_value = classes_of(raw / DESCRIPTION, dataset)
    return list_cases(raw, dataset, names, class_of_value, _object_rule(raw, dataset), fold)


def read_description(raw: Path) -> dict[str, Any]:
    """What `dataset.json` says.

    Raises:
        Misplaced: it, or the folder of images, is missing.
        UserError: it is no JSON object.
    """
    dataset = read_json(need(raw / DESCRIPTION))
    if not isinstance(dataset, dict):
        raise UserError(f"{raw / DESCRIPTION}: wanted an object with labels, got {type(dataset).__name__}")
    return dataset


def list_cases(
    raw: Path,
    dataset: Mapping[str, Any],
    names: tuple[str, ...],
    class_of_value: Mapping[int, int],
    rule: ObjectRule,
    fold: int = 0,
) -> RawDataset:
    """The cases of imagesTr, labelsTr, imagesTs and labelsTs below a folder.

    Raises:
        Misplaced: there is no imagesTr.
        UserError: a damaged splits file, or a fold that does not exist.
    """
    images_tr = channel_files(find_volumes(need(raw / "imagesTr")))
    folds = _folds(raw, images_tr)
    if fold and not 0 <= fold < len(folds):
        told = f"it has {len(folds)}, counted from 0" if folds else f"there is neither {' nor '.join(SPLIT_FILES)}"
        raise UserError(f"{raw}: has no fold {fold}; {told}")
    split_of = {case_id: split for split, ids in folds[fold].items() for case_id in ids} if folds else {}
    cases = [
        _case(raw, "Tr", case_id, images_tr.get(case_id, ()), rule, class_of_value, split_of.get(case_id, "train"))
        for case_id in _listed(dataset) or sorted(images_tr)
    ]
    for case_id, images in sorted(channel_files(find_volumes(raw / "imagesTs")).items()):
        if _label_file(raw / "labelsTs", case_id):
            cases.append(_case(raw, "Ts", case_id, images, rule, class_of_value, "test"))
        else:
            cases.append(RawCase(case_id, images, split="unlabelled"))
    channels = dataset.get("channel_names") or dataset.get("modality") or dataset.get("modalities") or {}
    channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int)) if isinstance(channels, dict) else ()
    return RawDataset(names, tuple(cases), rule, channel_names, folds)


def classes_of(
    path: Path, dataset: Mapping[str, Any], has_background: bool = True
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the classes in the order of their values, and the class of each value.

    Args:
        path: of the description, for messages.
        dataset: the description.
        has_background: whether value 0 is the background rather than a class.

    Raises:
        UserError: no labels, or labels that are no classes.
    """
    labels = dataset.get("labels")
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
    # An instance data set has no label values, so it may count its classes from 0 without a background.
    has_background = has_background and not dataset.get("instances")
    ordered = sorted(values, key=lambda name: values[name])
    names = [
        name for name in ordered if name not in ("background", "ignore") and not (has_background and values[name] == 0)
    ]
    if not 1 <= len(names) <= 254:
        raise UserError(f"{path}: labels {labels}: wanted 1 to 254 classes beside the background, got {len(names)}")
    class_of_value = {values[name]: index for index, name in enumerate(names)}
    return tuple(names), class_of_value | ({values["ignore"]: IGNORE} if "ignore" in values else {})


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
    labels = _label_file(folder, case_id)
    if not images:
        return RawCase(case_id, (), problem=f"dataset.json lists it, but images{suffix} has no file of that name")
    if labels is None:
        return RawCase(case_id, images, problem=f"no label file {folder.name}/{case_id}.nii.gz")
    if rule != "instances":
        return RawCase(case_id, images, labels, class_of_value, split=split)
    table = folder / f"{case_id}.json"
    try:
        classes = {int(value): int(label) for value, label in read_json(table)["instances"].items()}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return RawCase(
            case_id,
            images,
            problem=f'{folder.name}/{table.name}: wanted {{"instances": {{"1": 0}}}}, the class of each id ({error})',
        )
    num_classes = len([label for label in class_of_value.values() if label >= 0])
    strange = sorted(label for label in set(classes.values()) if not 0 <= label < num_classes)
    if strange:
        reason = f"{folder.name}/{table.name}: class {strange[0]}, dataset.json has classes 0 to {num_classes - 1}"
        return RawCase(case_id, images, problem=reason)
    return RawCase(case_id, images, labels, classes, split=split)


def _label_file(folder: Path, case_id: str) -> Path | None:
    return next((path for ending in VOLUME_ENDINGS if (path := folder / f"{case_id}{ending}").is_file()), None)


def _listed(dataset: Mapping[str, Any]) -> list[str]:
    """Ids of the training cases that `dataset.json` names; only names are taken from it, never places of files."""
    listed = dataset.get("training")
    if not isinstance(listed, list):
        return []
    files = [entry["image"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("image"), str)]
    return sorted({volume_stem(Path(file)) for file in files})


def _object_rule(raw: Path, dataset: Mapping[str, Any]) -> ObjectRule:
    rule = "instances" if dataset.get("instances") else dataset.get("objects", "components")
    if rule not in OBJECT_RULES:
        raise UserError(f"{raw / DESCRIPTION}: objects is {rule!r}, wanted one of {', '.join(OBJECT_RULES)}")
    return rule


def _folds(raw: Path, known: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], ...]:
    """The folds of the splits file; ids without files are ignored, so a part of a data set works."""
    path = next((raw / name for name in SPLIT_FILES if (raw / name).is_file()), None)
    if path is None:
        return ()
    folds = read_json(path)
    folds = [folds] if isinstance(folds, dict) else folds
    for number, fold in enumerate(folds if isinstance(folds, list) else [None]):
        if not isinstance(fold, dict) or not {"train", "val"} <= set(fold):
            raise UserError(f'{path}: fold {number}: wanted {{"train": [ids], "val": [ids]}}')
        twice = set(fold["train"]) & set(fold["val"])
        if twice:
            raise UserError(f"{path}: fold {number}: '{min(twice)}' is in train and in val; keep one of them")
        named = {*fold["train"], *fold["val"]}
        if named and not named & set(known):
            raise UserError(
                f"{path}: fold {number}: no id is that of a file in imagesTr; wanted ids like '{next(iter(known), '')}'"
            )
    return tuple(
        {split: tuple(case_id for case_id in fold[split] if case_id in known) for split in ("train", "val")}
        for fold in folds
    )


LAYOUTS = (
    Layout(
        name="nnunet",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/dataset.json
  RAW/imagesTr/<id>_0000.nii.gz or <id>.nii.gz
  RAW/labelsTr/<id>.nii.gz
  RAW/imagesTs, RAW/labelsTs   (the test split, may be missing)""",
        signs=("dataset.json", "imagesTr/"),
        read=read_nnunet,
    ),
)
