"""nnU-Net's predictions as detections: label maps, and probabilities where they were saved.

<case>.nii.gz        label map, or probabilities alone, (1 + classes) channels or one of the only class
<case>.npz           `probabilities` (nnU-Net v2) or `softmax` (v1), axes as SimpleITK has them; v1 cuts them to the
                     region that <case>.pkl names in crop_bbox
dataset.json         the names of the values, as nnU-Net v2 copies it there; else value v is class v - 1
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.documents import read_json
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.files import PredictionFile, TargetFile
from medpretrain3d.evaluation.readers.components import found_objects, left_out_notes
from medpretrain3d.evaluation.readers.npz import read_npz
from medpretrain3d.evaluation.readers.numpy_pickle import read_numpy_pickle
from medpretrain3d.evaluation.readers.options import ReadOptions
from medpretrain3d.evaluation.readers.placed import check_cases, check_world, placed_case, prediction_file
from medpretrain3d.store.readers import Scan, find_volumes, read_scan, volume_stem

ARRAYS = ("probabilities", "softmax")
ADVICE = "give the folder that nnU-Net's prediction wrote"
MIN_AGREEMENT = 0.99
"""Of the voxels of a label map that are objects, those whose value has the highest probability. Post-processing takes
whole components away, and changes none that stays."""


def read_nnunet(path: Path, targets: TargetFile, options: ReadOptions) -> PredictionFile:
    """Read a folder of label maps.

    Raises:
        UserError: no label maps, other scans than those of the targets, values that stand for no class, or
            probabilities that are not those of the label map beside them.
    """
    files = _label_maps(path)
    check_cases(path, files, targets, options.is_part)
    check_world(path, targets)
    class_of_value, notes = _classes(path, targets)
    cases, num_small, without = [], 0, []
    for case in (one.case for one in targets.cases):
        one, small, has_scores = _read_case(files[case], case, class_of_value, targets, options)
        cases.append(one)
        num_small += small
        without += [] if has_scores else [case]
    if without:
        notes.append(
            f"{len(without)} of {len(cases)} scans, first '{without[0]}': no probabilities beside the label map, so "
            "every score is 1 and AP has one operating point; predict with --save_probabilities"
        )
    return prediction_file(path, cases, targets, [*notes, *left_out_notes(num_small, options.min_voxels)])


def _label_maps(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in find_volumes(folder) if folder.is_dir() else []:
        case = volume_stem(path)
        if case in files:
            raise UserError(f"{files[case]} and {path} are both of case '{case}'; keep one")
        files[case] = path
    if not files:
        raise UserError(f"{folder}: holds no label map <case>.nii.gz; {ADVICE}")
    return files


def _classes(folder: Path, targets: TargetFile) -> tuple[dict[int, int] | None, list[str]]:
    """Return the class of each value, None where nothing names the values, and what to say about it."""
    description = folder / "dataset.json"
    if not description.is_file():
        return None, []
    content: Any = read_json(description, dict[str, Any], ADVICE)
    labels = content.get("labels")
    try:
        pairs = list(labels.items())
        is_by_value = all(str(key).isdigit() for key in labels)
        values = {str(name): int(value) for value, name in (pairs if is_by_value else [(v, k) for k, v in pairs])}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{description}: labels {labels}: wanted one whole number per name; {ADVICE}") from error
    known = {values[name]: number for number, name in enumerate(targets.classes) if name in values}
    if not known:
        raise UserError(
            f"{description}: labels {list(values)} hold none of the classes {list(targets.classes)} of {targets.path}; "
            "give them the same names"
        )
    others = [name for name, value in values.items() if name not in targets.classes and value != 0]
    absent = [name for name in targets.classes if name not in values]
    notes = [f"values of {description} that are no class of the targets, left out: {', '.join(others)}"] * bool(others)
    notes += [f"classes that {description} does not have, never found: {', '.join(absent)}"] * bool(absent)
    return known, notes


def _read_case(
    path: Path, case: str, class_of_value: Mapping[int, int] | None, targets: TargetFile, options: ReadOptions
) -> tuple[PredictedCase, int, bool]:
    scan = read_scan(path)
    archive = path.with_name(f"{case}.npz")
    label_map, probabilities = _split(scan, len(targets.classes))
    if probabilities is None and archive.is_file():
        probabilities = _probabilities(archive, scan)
        _check_agreement(archive, path, label_map, probabilities)
    classes = class_of_value if class_of_value is not None else {n + 1: n for n in range(len(targets.classes))}
    if class_of_value is None and label_map.max(initial=0) > len(targets.classes):
        raise UserError(
            f"{path}: value {label_map.max()} stands for none of {len(targets.classes)} classes; put nnU-Net's "
            "dataset.json into the folder, whose labels name the values"
        )
    objects = options.objects or "components"
    found = found_objects(label_map, classes, objects, options.min_voxels, probabilities, options.component_score)
    has_scores = probabilities is not None or not len(found.scores)
    one = placed_case(path, case, found.boxes_vox, found.scores, found.labels, targets, scan.grid)
    return one, found.num_small, has_scores


def _split(scan: Scan, num_classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the label map (i, j, k) of a file, and the probabilities where the file holds these."""
    voxels = scan.voxels
    is_whole = voxels.dtype.kind != "f" or bool((voxels == np.floor(voxels)).all())
    if len(voxels) == 1 and is_whole:
        if voxels.min() < 0 or voxels.max() > 65535:
            raise UserError(
                f"{scan.path}: values from {voxels.min()} to {voxels.max()}, wanted 0 to 65535: no label map"
            )
        return voxels[0].astype(np.uint16), None
    if voxels.min() < 0 or voxels.max() > 1 + 1e-5:
        raise UserError(
            f"{scan.path}: values from {voxels.min():g} to {voxels.max():g}, neither labels nor probabilities; {ADVICE}"
        )
    if len(voxels) == num_classes + 1:
        return voxels.argmax(axis=0).astype(np.uint16), np.minimum(voxels, 1)
    if len(voxels) == num_classes == 1:
        return (voxels[0] > 0.5).astype(np.uint16), np.minimum(np.concatenate([1 - voxels, voxels]), 1)
    raise UserError(
        f"{scan.path}: {len(voxels)} channels of probabilities, wanted {num_classes + 1}, background first; {ADVICE}"
    )


def _probabilities(path: Path, scan: Scan) -> np.ndarray:
    """Return the probabilities (K, i, j, k) of an archive, on the grid of the label map."""
    shape = scan.voxels.shape[1:]
    arrays = read_npz(path, ADVICE, max_bytes=2**20 + 8 * 257 * int(np.prod(shape)))
    key = next((key for key in ARRAYS if key in arrays), None)
    if key is None or arrays[key].ndim != 4 or arrays[key].dtype.kind != "f":
        raise UserError(f"{path}: has no array {' or '.join(ARRAYS)} of (values, z, y, x); {ADVICE}")
    found = arrays[key].transpose(0, 3, 2, 1)
    if found.shape[1:] != shape:
        found = _uncropped(path, found, shape)
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1 + 1e-3:  # float16 rounds
        raise UserError(f"{path}: {key} holds values outside [0, 1]; give probabilities, not logits")
    result: np.ndarray = np.minimum(found, 1)
    return result


def _uncropped(path: Path, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    properties = path.with_suffix(".pkl")
    box = None
    if properties.is_file():
        content = read_numpy_pickle(properties, ADVICE)
        box = content.get("crop_bbox") if isinstance(content, Mapping) else None
    if box is None:
        raise UserError(
            f"{path}: probabilities of {found.shape[:0:-1]} voxels, the label map has {shape[::-1]}, and no "
            f"{properties.name} beside it names their region in crop_bbox; {ADVICE}"
        )
    try:
        region = tuple(slice(int(low), int(high)) for low, high in list(box)[::-1])
        whole = np.zeros((len(found), *shape), found.dtype)
        whole[0] = 1
        whole[(slice(None), *region)] = found
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{properties}: crop_bbox {box} is not where {path.name} lies ({error}); {ADVICE}") from error
    return whole


def _check_agreement(archive: Path, path: Path, label_map: np.ndarray, probabilities: np.ndarray) -> None:
    """Refuse probabilities of another scan, another order of axes, or other values."""
    if label_map.max(initial=0) >= len(probabilities):
        raise UserError(
            f"{archive}: {len(probabilities)} channels, but {path} has value {label_map.max()}: regions are not read"
        )
    inside = label_map > 0
    if inside.any():
        agreement = float((probabilities[:, inside].argmax(axis=0) == label_map[inside]).mean())
        if agreement < MIN_AGREEMENT:
            raise UserError(
                f"{archive}: only {agreement:.0%} of the objects' voxels in {path.name} have their value's probability "
                "highest: of another scan, axes in another order, or regions; predict both in one call"
            )
