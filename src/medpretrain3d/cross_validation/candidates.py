"""Out-of-fold candidates: boxes in labelled cases, each found by a detector that has not seen the case.

`cross-validate` states in predictions.json which detector looked at which cases, and which it was trained on:

    "detectors": [{"fold": 0, "cases": ["a"], "train_cases": ["b", "c"]}, ...]

and under `voxels` the hash of each case's scan, as its store has it.

What a detector finds where it was trained on is not what it will find elsewhere: nearly all of it is right, and sure. A
network that learns from such candidates learns from other mistakes than it will meet, so they are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import torch
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.boxes import Detections
from medpretrain3d.cross_validation.fold_runs import FoldRuns
from medpretrain3d.cross_validation.known_cases import known_by
from medpretrain3d.documents import LARGE, SCHEMA, Text, Whole, checked, read_bytes, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, read_predictions
from medpretrain3d.inference import Prediction, predictions_json
from medpretrain3d.store.store import Store

_ADVICE = "give predictions.json of `medpretrain3d cross-validate`"


@with_config(SCHEMA)
class _Detector(TypedDict):
    fold: Whole
    cases: list[Text]
    train_cases: list[Text]


@with_config(SCHEMA)
class _Content(TypedDict):
    detectors: NotRequired[list[_Detector]]
    voxels: NotRequired[dict[str, Text]]


def out_of_fold_json(runs: FoldRuns, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the predictions document of all folds, with the cases that each detector was trained on."""
    cases = [sorted(case for case, fold in runs.fold_of.items() if fold == number) for number in _folds(runs)]
    detectors = [
        {"fold": number, "cases": held_out, "train_cases": sorted(runs.training_cases(number))}
        for number, held_out in zip(_folds(runs), cases, strict=True)
    ]
    document = predictions_json(runs.store.classes, predictions)
    entries = document.pop("predictions")
    voxels = {one.case: str(runs.store.entries[one.case]["voxels"]) for one in predictions}
    return {**document, "detectors": detectors, "voxels": voxels, "predictions": entries}


def predictions_sha256(path: Path) -> str:
    """Return the sha256 of a predictions file, by which the detectors that were kept with it are known.

    Raises:
        UserError: there is no such file.
    """
    return hashlib.sha256(read_bytes(path, _ADVICE, LARGE)).hexdigest()


def read_candidates(path: Path, store: Store) -> dict[str, Detections]:
    """Read what was found in each case by a detector that was not trained on it.

    Args:
        path: predictions.json of `cross-validate`.
        store: of the cases, at any spacing.

    Returns:
        Boxes (N, 6) float64 in voxels of the store's grid, by case; cases that the store does not hold are there too,
        without boxes moved.

    Raises:
        UserError: no such file; it does not say what its detectors were trained on; a case was trained on by the
            detector that looked at it, be it by its id, under another name or in another scan of its patient; or a case
            is of another scan than the store's.
    """
    file = read_predictions(path)
    detectors = _detectors(path) if file.has_names else []
    if not detectors:
        raise UserError(
            f"{path}: does not say which cases its detectors were trained on, so what they found may be in-fold; "
            f"{_ADVICE}, called again if it wrote the file before it said so"
        )
    found_by = _found_by(path, detectors)
    seen = [known_by(store, one["train_cases"]) for one in detectors]
    result = {}
    for case in file.cases:
        if case.case not in found_by:
            raise UserError(f"{path}: does not say which detector looked at case '{case.case}'; {_ADVICE}")
        number = found_by[case.case]
        if seen[number] & known_by(store, [case.case]):
            raise UserError(
                f"{path}: case '{case.case}' is in-fold: the detector of fold {detectors[number]['fold']}, which "
                "looked at it, was trained on it, on a copy of it or on another scan of its patient; wanted candidates "
                f"out of fold, {_ADVICE}"
            )
        result[case.case] = _on_grid_of(store, case, path)
    return result


def refuse_other_scans(path: Path, store: Store) -> None:
    """Compare the scans of a predictions file with those that a store has under the same ids.

    For who looks at the same voxels again; a store of the same scans with other channels or units has others.

    Raises:
        UserError: a case has other voxels. A file of an earlier version does not say which it was of.
    """
    voxels: dict[str, str] = _stated(path).get("voxels", {})
    shared = [case for case in voxels if case in store.entries]
    if others := [case for case in shared if voxels[case] != str(store.entries[case]["voxels"])]:
        raise UserError(
            f"{len(others)} of {len(shared)} cases have other voxels in {store.place} than in {path}, first "
            f"'{others[0]}'; name the store of the cross-validation"
        )


def _folds(runs: FoldRuns) -> range:
    return range(len(runs.folders))


def held_out_in(path: Path) -> dict[str, int]:
    """Return the fold that held out each case of a predictions file which `read_candidates` has read."""
    return {case: int(one["fold"]) for one in _detectors(path) for case in one["cases"]}


def _detectors(path: Path) -> Any:
    return _stated(path).get("detectors")


def _stated(path: Path) -> Any:
    document: Any = read_json(path, dict[str, Any], _ADVICE, LARGE, True)
    return checked(
        {key: document[key] for key in ("detectors", "voxels") if key in document}, _Content, str(path), _ADVICE
    )


def _found_by(path: Path, detectors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the index of the detector that looked at each case."""
    found: dict[str, int] = {}
    for number, one in enumerate(detectors):
        for case in one["cases"]:
            if case in found:
                raise UserError(f"{path}: says of two detectors that they looked at case '{case}'; {_ADVICE}")
            found[case] = number
    return found


def _on_grid_of(store: Store, found: PredictedCase, path: Path) -> Detections:
    boxes = np.asarray(found.boxes)
    if found.case in store.entries:
        case = store.case(found.case)
        if found.grid is None or found.boxes_vox is None:
            raise UserError(f"{path}: case '{found.case}' has no boxes_vox and grid; {_ADVICE}")
        if not found.grid.is_close(case.source_grid):
            raise UserError(
                f"{path}: case '{found.case}' has another grid than the scan of {store.place}: another scan has the "
                f"same id; {_ADVICE} on this data"
            )
        boxes = found.grid.map_boxes(found.boxes_vox, case.grid)
    return Detections(torch.from_numpy(boxes), torch.from_numpy(found.scores), torch.from_numpy(found.labels))
