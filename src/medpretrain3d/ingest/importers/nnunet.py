"""The layout of nnU-Net, which is also that of the Medical Segmentation Decathlon.

RAW/dataset.json               labels (name -> value, or value -> name), channel_names or modality
RAW/imagesTr/<id>_0000.nii.gz  (nnU-Net) or <id>.nii.gz (MSD)
RAW/labelsTr/<id>.nii.gz       label values; with "instances": true instance ids, classes in labelsTr/<id>.json
RAW/imagesTs, RAW/labelsTs     the test split, where its labels are there; else unlabelled; may be alone
RAW/splits.json                optional: a list of folds {"train": [...], "val": [...]}, perhaps with "test"; also
                               splits_final.json
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import IGNORE, OBJECT_RULES, Leftover, ObjectRule, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import flag, read_json
from medpretrain3d.ingest.importers.folds_file import read_folds, with_tests
from medpretrain3d.ingest.importers.layout import Layout, require
from medpretrain3d.store.file_names import ScanFiles, channel_files
from medpretrain3d.store.readers import find_volumes, volume_stem

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
    """Read the dataset description, `dataset.json`.

    Raises:
        Misplaced: it, or the folder of images, is missing.
        UserError: it is no JSON object.
    """
    path = require(raw / DESCRIPTION)
    return described(path, read_json(path))


def described(path: Path, content: object) -> dict[str, Any]:
    """Return the content of a description, which has to be an object.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: wanted an object with labels, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def list_cases(
    raw: Path,
    dataset: Mapping[str, Any],
    names: tuple[str, ...],
    class_of_value: Mapping[int, int],
    rule: ObjectRule,
    fold: int = 0,
    tables: Sequence[Path] = (),
) -> RawDataset:
    """Return the cases of imagesTr, labelsTr, imagesTs and labelsTs below a folder.

    Raises:
        Misplaced: there is no imagesTr, nor imagesTs with labelsTs.
        UserError: a damaged splits file, or a fold that does not exist.
    """
    is_test_set = all((raw / name).is_dir() for name in ("imagesTs", "labelsTs")) and not (raw / "labelsTr").is_dir()
    num_channels = len(_channel_names(dataset)) or None
    labels_tr, labels_ts = _label_maps(raw / "labelsTr"), _label_maps(raw / "labelsTs")
    named = set(listed_cases(dataset)) or set(labels_tr)
    images_tr = _scans(raw / "imagesTr" if is_test_set else require(raw / "imagesTr"), num_channels, named)
    splits_file = next((raw / name for name in SPLIT_FILES if (raw / name).is_file()), None)
    folds, leftovers = read_folds(splits_file, images_tr) if splits_file else ((), [])
    if fold and not 0 <= fold < len(folds):
        message = f"it has {len(folds)}, counted from 0" if folds else f"there is neither {' nor '.join(SPLIT_FILES)}"
        raise UserError(f"{raw}: has no fold {fold}; {message}")
    split_of = {case_id: split for split, ids in folds[fold].items() for case_id in ids} if folds else {}
    # An external test set comes with the description of the set it tests, whose training cases are elsewhere.
    elsewhere = listed_cases(dataset) if is_test_set and not images_tr else []
    leftovers += [Leftover(one, f"training cases of {DESCRIPTION}, which a test set does without") for one in elsewhere]
    listed = sorted(images_tr) if elsewhere else listed_cases(dataset) or sorted(images_tr)
    cases = [
        _case(raw, "Tr", one, images_tr.get(one), labels_tr, rule, class_of_value, split_of.get(one, "train"))
        for one in listed
    ]
    images_ts = _scans(raw / "imagesTs", num_channels, labels_ts.keys())
    for case_id, scan in sorted(images_ts.items()):
        if case_id in labels_ts:
            cases.append(_case(raw, "Ts", case_id, scan, labels_ts, rule, class_of_value, "test"))
        else:
            cases.append(RawCase(case_id, scan.files, split="unlabelled", problem=scan.problem))
    if not elsewhere:
        leftovers += _miscounted(dataset, len(listed))
    folds = with_tests(folds, [case.id for case in cases if case.split == "test" and case.id in images_ts])
    for suffix, maps, there in (("Tr", labels_tr, {*listed, *images_tr}), ("Ts", labels_ts, {*images_ts})):
        for case_id, (path, *_) in maps.items():
            if case_id not in there:
                problem = f"labels{suffix}/{path.name} has no image in images{suffix}"
                cases.append(RawCase(case_id, (), path, problem=problem))
    if folds:
        message = (
            f"cases that fold {fold} of {splits_file.name if splits_file else ''} does not name, taken for training"
        )
        leftovers += [
            Leftover(one, message, is_used=True) for one in listed if one in images_tr and one not in split_of
        ]
    read = (*(tables or (raw / DESCRIPTION,)), *((splits_file,) if splits_file else ()))
    return RawDataset(names, tuple(cases), rule, _channel_names(dataset), folds, read, tuple(leftovers))


def _scans(folder: Path, num_channels: int | None, named: Collection[str]) -> dict[str, ScanFiles]:
    """Return the scans of a folder by their ids, which are names of files as they are where those are named so."""
    scans = {}
    for scan in channel_files(find_volumes(folder), num_channels, named):
        stem = volume_stem(scan.files[0])
        is_whole = stem == f"{scan.id}_0000" and len(scan.files) == 1 and stem in named and scan.id not in named
        scans[stem if is_whole else scan.id] = scan
    return scans


def _label_maps(folder: Path) -> dict[str, list[Path]]:
    """Return the label maps in a folder by their case, whatever case their endings are written in."""
    found: dict[str, list[Path]] = {}
    for path in find_volumes(folder):  # links that lead nowhere are there as well, and reading them says so
        found.setdefault(volume_stem(path), []).append(path)
    return found


def _channel_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the channel names in the order of their numbers; these may change places, as those of labels may."""
    channels = dataset.get("channel_names") or dataset.get("modality") or dataset.get("modalities") or {}
    if not isinstance(channels, dict):
        return ()
    numbers = [str(value) for value in channels.values()]
    if all(number.isdecimal() for number in numbers) and len(set(numbers)) == len(numbers):
        channels = {value: key for key, value in channels.items()}
    if not all(str(key).isdecimal() for key in channels):
        return ()
    return tuple(str(channels[key]) for key in sorted(channels, key=int))


def classes_of(
    path: Path, dataset: Mapping[str, Any], has_background: bool = True
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return names of the classes in the order of their values, and the class of each value.

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
    has_background = has_background and not flag(dataset.get("instances"), f"{path}: instances")
    ordered = sorted(values, key=lambda name: values[name])
    ignored = {values[name]: IGNORE for name in ordered if _plain(name) == "ignore"}
    names = [
        name
        for name in ordered
        if _plain(name) not in ("background", "ignore") and not (has_background and values[name] == 0)
    ]
    if not names:
        raise UserError(f"{path}: labels {labels}: wanted at least one class beside the background")
    class_of_value = {values[name]: index for index, name in enumerate(names)}
    return tuple(names), class_of_value | ignored


def _plain(name: str) -> str:
    return name.strip().casefold()


def _case(
    raw: Path,
    suffix: str,
    case_id: str,
    scan: ScanFiles | None,
    label_maps: Mapping[str, Sequence[Path]],
    rule: ObjectRule,
    class_of_value: Mapping[int, int],
    split: str,
) -> RawCase:
    folder = raw / f"labels{suffix}"
    labels = label_maps.get(case_id, ())
    if scan is None:
        return RawCase(case_id, (), problem=f"dataset.json lists it, but images{suffix} has no file of that name")
    images = scan.files
    if scan.problem:
        return RawCase(case_id, images, problem=scan.problem)
    if not labels:
        return RawCase(case_id, images, problem=f"no label file {folder.name}/{case_id}.nii.gz")
    if len(labels) > 1:
        return RawCase(
            case_id, images, labels[0], problem=f"has label files {labels[0].name} and {labels[1].name}; keep one"
        )
    if rule != "instances":
        return RawCase(case_id, images, labels[0], class_of_value, split=split)
    table = folder / f"{case_id}.json"
    try:
        classes = {int(value): int(label) for value, label in read_json(table)["instances"].items()}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        return RawCase(
            case_id,
            images,
            labels[0],
            problem=f'{folder.name}/{table.name}: wanted {{"instances": {{"1": 0}}}}, the class of each id ({error})',
        )
    num_classes = len([label for label in class_of_value.values() if label >= 0])
    strange = sorted(label for label in set(classes.values()) if not 0 <= label < num_classes)
    if strange:
        reason = f"{folder.name}/{table.name}: class {strange[0]}, dataset.json has classes 0 to {num_classes - 1}"
        return RawCase(case_id, images, labels[0], problem=reason)
    return RawCase(case_id, images, labels[0], classes, split=split)


def listed_cases(dataset: Mapping[str, Any]) -> list[str]:
    """Ids of the training cases that `dataset.json` names; only names are taken from it, never places of files."""
    listed = dataset.get("training")
    if not isinstance(listed, list):
        return []
    files = [entry["image"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("image"), str)]
    return sorted({volume_stem(Path(file)) for file in files})


def _miscounted(dataset: Mapping[str, Any], number: int) -> list[Leftover]:
    """Return a leftover where `dataset.json` counts other training cases than there are, as of half a download."""
    stated = dataset.get("numTraining")
    if not isinstance(stated, int) or stated == number:
        return []
    reason = f"numTraining of {DESCRIPTION} is {stated}, and there are {number} training cases"
    return [Leftover(DESCRIPTION, reason, is_used=True)]


def _object_rule(raw: Path, dataset: Mapping[str, Any]) -> ObjectRule:
    is_instances = flag(dataset.get("instances"), f"{raw / DESCRIPTION}: instances")
    rule = "instances" if is_instances else dataset.get("objects", "components")
    if rule not in OBJECT_RULES:
        raise UserError(f"{raw / DESCRIPTION}: objects is {rule!r}, wanted one of {', '.join(OBJECT_RULES)}")
    return rule


def _is_of_images(path: Path) -> bool:
    return str(path) in ("imagesTr", "imagesTs")


LAYOUTS = (
    Layout(
        name="nnunet",
        kind="generic",
        is_described=True,
        classes=(),
        licence="as the data",
        wanted="""  RAW/dataset.json
  RAW/imagesTr/<id>_0000.nii.gz or <id>.nii.gz
  RAW/labelsTr/<id>.nii.gz
  RAW/imagesTs, RAW/labelsTs   (the test split, may be missing, or be there alone)""",
        patterns=("dataset.json", _is_of_images),
        read=read_nnunet,
        page="""\
The layout of nnU-Net and of the Medical Segmentation Decathlon, see [data.md](data.md). A value named `ignore`, in
any case, marks ignore regions. Where `numTraining` counts other training cases than there are, that is said.""",
    ),
)
