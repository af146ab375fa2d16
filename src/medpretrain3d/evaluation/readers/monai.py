"""MONAI's detections: a list with one dictionary per scan, as JSON or as a file of `torch.save`.

    {"validation": [{"image": "scan.nii.gz", "box": [[6 numbers]], "label": [0], "label_scores": [0.9]}]}

The files say neither the order of the six numbers nor the frame: the user does.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from medpretrain3d.documents import LARGE, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, predicted_case
from medpretrain3d.evaluation.files import LPS, PredictionFile, TargetFile, half_open
from medpretrain3d.evaluation.readers.box_modes import BoxMode, corners
from medpretrain3d.evaluation.readers.options import BoxFrame, ReadOptions
from medpretrain3d.evaluation.readers.placed import check_cases, check_world, placed_case

TORCH_ENDINGS = (".pt", ".pth")
BOXES = ("box", "boxes", "pred_box", "pred_boxes")
LABELS = ("label", "labels", "pred_label", "pred_labels")
SCORES = ("label_scores", "labels_scores", "scores", "score", "pred_score", "pred_scores")
NAMES = ("case", "case_id", "image", "image_path", "file_name")
ADVICE = "give MONAI's list: a dictionary per scan with box, label and label_scores"


def is_list_of_scans(content: Any) -> bool:
    """Return whether the content of a file looks like MONAI's list."""
    entries = _entries(content)
    return bool(entries) and isinstance(entries[0], Mapping) and any(key in entries[0] for key in BOXES)


def read_monai(path: Path, targets: TargetFile, options: ReadOptions) -> PredictionFile:
    """Read a list of detections; scans are known by the names of their images, or by order where there are none.

    Raises:
        UserError: neither order nor frame of the boxes is said, a file that would run code, other scans than those of
            the targets, or a box, score or label is wrong.
    """
    content = _loaded(path) if path.suffix in TORCH_ENDINGS else read_json(path, object, ADVICE, LARGE, allow_nan=True)
    if options.box_mode is None or options.box_frame is None:
        option, values = ("--box-mode", BoxMode) if options.box_mode is None else ("--box-frame", BoxFrame)
        known = ", ".join(get_args(values))
        raise UserError(f"{path}: MONAI's lists do not say how boxes are written; say {option}, one of {known}")
    entries = _entries(content)
    if not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"{path}: holds no list of scans; {ADVICE}")
    names = [_name(entry, targets) for entry in entries]
    has_names = all(name is not None for name in names)
    if has_names:
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: case '{twice}' is listed twice; give one entry per scan")
        check_cases(path, [str(name) for name in names], targets, options.is_part)
    if not has_names and len(entries) != len(targets.cases):
        raise UserError(
            f"{path}: {len(entries)} entries without names but {len(targets.cases)} in {targets.path}; give one entry "
            "per scan in that order, or name the scans by `image`"
        )
    ordered = [str(name) for name in names] if has_names else [case.case for case in targets.cases]
    wanted = {case.case for case in targets.cases}
    named = [pair for pair in zip(ordered, entries, strict=True) if pair[0] in wanted]
    cases = [_case(path, name, entry, targets, options) for name, entry in named]
    is_placed = options.box_frame != "voxels" or any(case.grid is not None for case in cases)
    if is_placed:
        check_world(path, targets)
    message = () if has_names else (f"{path} names no scans; its entries are taken in the order of {targets.path}",)
    return PredictionFile(path, targets.classes, LPS if is_placed else targets.frame, None, True, tuple(cases), message)


def _case(path: Path, name: str, entry: Mapping[str, Any], targets: TargetFile, options: ReadOptions) -> PredictedCase:
    boxes, labels, scores = (_numbers(path, name, entry, keys) for keys in (BOXES, LABELS, SCORES))
    boxes = boxes.reshape(-1, 6) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise UserError(f"{path}: boxes of case '{name}' have shape {boxes.shape}, wanted (N, 6)")
    assert options.box_mode is not None
    found = corners(boxes, options.box_mode)
    grid = targets.grids.get(name)
    if options.box_frame == "voxels" and grid is not None:
        return placed_case(path, name, half_open(found, options.convention), scores, labels, targets, grid)
    if options.box_frame == "voxels":
        found = half_open(found, options.convention)
    elif options.convention != "half-open":
        raise UserError(
            f"--boxes {options.convention} is of boxes in voxels, {path} is read in {options.box_frame}; leave it out"
        )
    try:
        predicted_case(name, found, scores, labels, targets.classes)
        if options.box_frame == "ras_mm":
            found = found[:, (3, 4, 2, 0, 1, 5)] * [-1, -1, 1, -1, -1, 1]
        return predicted_case(name, found, scores, labels, targets.classes)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _entries(content: Any) -> list[Any]:
    """Return the scans of a list, of the one list of a dictionary, or of a dictionary by case."""
    if isinstance(content, list | tuple):
        return list(content)
    if not isinstance(content, Mapping):
        return []
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
    if len(lists) == 1:
        return list(lists[0])
    if content and all(isinstance(value, Mapping) for value in content.values()):
        return [{"case": name, **value} for name, value in content.items()]
    return []


def _name(entry: Mapping[str, Any], targets: TargetFile) -> str | None:
    """Return the case of an entry: what it is called, or the name of its image without ending and channel."""
    from medpretrain3d.store.readers import volume_stem

    value = next((entry[key] for key in NAMES if isinstance(entry.get(key), str)), None)
    if value is None:
        return None
    known = {case.case for case in targets.cases}
    stem = volume_stem(Path(value))
    return next((name for name in (value, stem, stem.removesuffix("_0000")) if name in known), stem)


def _numbers(path: Path, case: str, entry: Mapping[str, Any], keys: tuple[str, ...]) -> np.ndarray:
    key = next((key for key in keys if key in entry), None)
    if key is None:
        raise UserError(f"{path}: case '{case}' has none of {', '.join(keys)}; {ADVICE}")
    value = entry[key]
    try:
        array = value.detach().cpu().double().numpy() if hasattr(value, "detach") else np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"an array of {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {key} of case '{case}' are no numbers ({error}); {ADVICE}") from error


def _loaded(path: Path) -> Any:
    import torch

    from medpretrain3d.store.readers import check_there

    check_there(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain data, and to read that would run code of "
            "its choice; save boxes, labels and scores as tensors or lists, or as JSON"
        ) from error
    except Exception as error:  # a damaged pickle fails in as many ways as it has bytes
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path}: is no readable file of torch.save ({reason}); {ADVICE}") from error
