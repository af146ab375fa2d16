"""Prediction and target files: JSON with the classes and one entry per scan.

    {"classes": ["nodule"], "frame": "lps_mm",
     "predictions": [{"case": "a", "boxes": [[x0, y0, z0, x1, y1, z1]], "scores": [0.9], "labels": [0],
                      "boxes_vox": [[i0, j0, k0, i1, j1, k1]], "grid": {"shape": [...], "affine_lps": [[...]]}}]}

A target file has `targets` in place of `predictions` and no scores; an entry may list regions to `ignore` (M, 6), in
which finding something is ignored, and name its `patient` by a pseudonym, without which the scan is of a patient of its
own. `boxes_vox`, `ignore_vox` and `grid` say the same in the scan's own axes, in which boxes of an oblique scan meet
(`scan_frame`); they are read where the frame is lps_mm or not stated. `format`, `frame`, `axes`, `case`, `patient` and
these three are optional; other keys are not read. Entries are paired by `case` where both files name their cases, else
by order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import LARGE, SCHEMA, Name, Text, checked, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase, predicted_case, target_case
from medpretrain3d.store.grid import Grid, GridDocument

BoxConvention = Literal["half-open", "inclusive", "nndetection"]
LPS = "lps_mm"


@dataclass(frozen=True)
class PredictionFile:
    """The detections of several scans. `frame` and `axes` are None where the file does not state them.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.evaluation import read_predictions
        >>> entry = {"case": "scan", "boxes": [[0, 0, 0, 4, 4, 4]], "scores": [0.9], "labels": [0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "predictions.json"
        ...     _ = path.write_text(json.dumps({"classes": ["nodule"], "predictions": [entry]}))
        ...     file = read_predictions(path)
        >>> file.classes, file.cases[0].scores
        (('nodule',), array([0.9]))
    """

    path: Path
    classes: tuple[str, ...]
    frame: str | None
    axes: str | None
    has_names: bool
    cases: tuple[PredictedCase, ...]
    notes: tuple[str, ...] = ()
    """What a reader of its scores has to know, such as what was left out or taken for granted."""


@dataclass(frozen=True)
class TargetFile:
    """The objects of several scans. `frame` and `axes` are None where the file does not state them.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.evaluation import read_targets
        >>> entry = {"case": "scan", "boxes": [[0, 0, 0, 4, 4, 4]], "labels": [0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "targets.json"
        ...     _ = path.write_text(json.dumps({"classes": ["nodule"], "targets": [entry]}))
        ...     file = read_targets(path)
        >>> file.classes, file.cases[0].labels
        (('nodule',), array([0]))
    """

    path: Path
    classes: tuple[str, ...]
    frame: str | None
    axes: str | None
    has_names: bool
    cases: tuple[TargetCase, ...]

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """The grid of each scan's file by its case, of those that have one."""
        return {one.case: one.grid for one in self.cases if one.grid is not None}


def read_predictions(path: Path | str, convention: BoxConvention = "half-open") -> PredictionFile:
    """Read what was found.

    Args:
        path: the JSON file.
        convention: of boxes in voxels, see `half_open`.

    Raises:
        UserError: the file is missing or not JSON, a key is missing, a box, score or label is wrong, a case is there
            twice, an impossible grid, or inclusive boxes in millimetres; names the file, the case and the index.
    """
    header = _read(Path(path), "predictions")
    _check_convention(header, convention)

    def case(name: str, entry: Mapping[str, Any]) -> PredictedCase:
        place = _place(entry, name, header, convention)
        found = entry["boxes"], entry["scores"], entry["labels"]
        one = predicted_case(name, *found, header.classes, place.grid, place.boxes_vox)
        return replace(one, boxes=half_open(one.boxes, convention))

    cases = tuple(_named(header.path, case, *named) for named in header.entries("boxes", "scores", "labels"))
    return PredictionFile(header.path, header.classes, header.frame, header.axes, header.has_names, cases)


def read_targets(path: Path | str, convention: BoxConvention = "half-open") -> TargetFile:
    """Read what was to be found. Arguments and errors as `read_predictions`."""
    header = _read(Path(path), "targets")
    _check_convention(header, convention)

    def case(name: str, entry: Mapping[str, Any]) -> TargetCase:
        place = _place(entry, name, header, convention)
        wanted = entry["boxes"], entry["labels"], header.classes, entry.get("ignore")
        one = target_case(name, *wanted, place.grid, place.boxes_vox, place.ignore_vox, _patient(entry, name))
        ignore = None if one.ignore is None else half_open(one.ignore, convention)
        return replace(one, boxes=half_open(one.boxes, convention), ignore=ignore)

    cases = tuple(_named(header.path, case, *named) for named in header.entries("boxes", "labels"))
    return TargetFile(header.path, header.classes, header.frame, header.axes, header.has_names, cases)


def predictions_document(file: PredictionFile) -> dict[str, Any]:
    """Return detections as the document of a predictions file, from whatever file they were read."""

    def entry(case: PredictedCase) -> dict[str, Any]:
        place: dict[str, Any] = {} if case.grid is None else {"grid": case.grid.to_json()}
        if case.boxes_vox is not None:
            place["boxes_vox"] = case.boxes_vox.tolist()
        found = {"boxes": case.boxes.tolist(), "scores": case.scores.tolist(), "labels": case.labels.tolist()}
        return {"case": case.case, **found, **place}

    stated = {"frame": file.frame, "axes": file.axes}
    return {
        "format": "medpretrain3d-predictions",
        "version": 1,
        "classes": list(file.classes),
        **{key: value for key, value in stated.items() if value is not None},
        "predictions": [entry(case) for case in file.cases],
    }


def pair(predictions: PredictionFile, targets: TargetFile) -> list[PredictedCase]:
    """Return the predicted cases in the order of the target cases.

    A scan that one of the files does not list is an error, in both directions: leaving it out would change the score
    without a word. A scan in which nothing was found is an entry with empty lists.

    Raises:
        UserError: classes, frames or axes differ, or a case has no partner.
    """
    if predictions.classes != targets.classes:
        unknown = [name for name in predictions.classes if name not in targets.classes]
        raise UserError(
            f"{predictions.path}: classes {list(predictions.classes)} differ from {list(targets.classes)} of "
            f"{targets.path}{f', unknown: {unknown}' if unknown else ''}; both files must list the same in one order"
        )
    for what in ("frame", "axes"):
        ours, theirs = getattr(predictions, what), getattr(targets, what)
        if ours is not None and theirs is not None and ours != theirs:
            raise UserError(
                f"{predictions.path}: {what} is '{ours}' but '{theirs}' in {targets.path}; both must have the same"
            )
    one: PredictionFile | TargetFile
    other: PredictionFile | TargetFile
    for one, other in ((predictions, targets), (targets, predictions)):
        if other.frame not in (None, LPS) and any(case.grid is not None for case in one.cases):
            raise UserError(
                f"{one.path}: gives grids, by which its boxes are in {LPS}, but frame is '{other.frame}' in "
                f"{other.path}; state the frame in both"
            )
    if not (predictions.has_names and targets.has_names):
        if len(predictions.cases) != len(targets.cases):
            raise UserError(
                f"{predictions.path}: {len(predictions.cases)} entries but {len(targets.cases)} in {targets.path}; "
                "give one entry per scan, or name the scans by `case` in both files"
            )
        return [
            replace(found, case=target.case) for found, target in zip(predictions.cases, targets.cases, strict=True)
        ]
    by_name = {found.case: found for found in predictions.cases}
    missing = [target.case for target in targets.cases if target.case not in by_name]
    if missing:
        raise UserError(
            f"{predictions.path}: no entry for {_some(missing)} of {targets.path}; "
            "list a scan without detections with empty boxes, scores and labels"
        )
    extra = sorted(by_name.keys() - {target.case for target in targets.cases})
    if extra:
        raise UserError(
            f"{predictions.path}: {_some(extra)} not in {targets.path}; "
            "list a scan without objects with empty boxes and labels, or remove the entry"
        )
    return [by_name[target.case] for target in targets.cases]


@with_config(SCHEMA)
class _Content(TypedDict):
    classes: list[Name | int]
    frame: NotRequired[Text | None]
    axes: NotRequired[Text | None]


@dataclass(frozen=True)
class _Header:
    """A file whose frame is checked and whose entries are not."""

    path: Path
    key: str
    classes: tuple[str, ...]
    frame: str | None
    axes: str | None
    content: list[Mapping[str, Any]]

    @property
    def has_names(self) -> bool:
        return bool(self.content) and all("case" in entry for entry in self.content)

    def entries(self, *keys: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Name and content of every entry, once it is known to have the keys."""
        named = []
        for index, entry in enumerate(self.content):
            missing = [key for key in keys if key not in entry]
            if missing:
                raise UserError(
                    f"{self.path}: entry {index} of '{self.key}' has no '{missing[0]}'; it needs {list(keys)}"
                )
            named.append((str(entry.get("case", index)), entry))
        return named


def _read(path: Path, key: str) -> _Header:
    content: Any = read_json(path, object, f"not a JSON file as wanted, give the JSON file with the {key}", LARGE, True)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, must be an object with 'classes' and '{key}'")
    version = content.get("version", 1)
    if content.get("format") == f"medpretrain3d-{key}" and version != 1:
        raise UserError(
            f"{path}: is of version {version!r:.20}, this program reads 1; install a newer one, or write it anew"
        )
    for needed in ("classes", key):
        if needed not in content:
            raise UserError(f"{path}: has no '{needed}'; a {key} file needs 'classes' and '{key}'")
        if not isinstance(content[needed], list) or not content[needed]:
            raise UserError(f"{path}: '{needed}' must be a list with at least one entry")
    checked(content, _Content, str(path), f"give the JSON file with the {key}")
    classes = tuple(map(str, content["classes"]))
    if len(set(classes)) != len(classes):
        raise UserError(f"{path}: classes {list(classes)} name one class twice; each label needs a name of its own")
    wrong = [index for index, entry in enumerate(content[key]) if not isinstance(entry, dict)]
    if wrong:
        raise UserError(f"{path}: entry {wrong[0]} of '{key}' must be an object with boxes and labels")
    odd = [entry["case"] for entry in content[key] if not isinstance(entry.get("case", ""), str | int)]
    if odd:
        raise UserError(f"{path}: case {odd[0]!r:.80} is no name; name every scan by a text")
    names = [str(entry["case"]) for entry in content[key] if "case" in entry]
    if names and len(names) != len(content[key]):
        raise UserError(f"{path}: {len(names)} of {len(content[key])} entries have a 'case'; name all of them or none")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise UserError(f"{path}: case '{twice[0]}' is listed twice; give one entry per scan")
    return _Header(path, key, classes, content.get("frame"), content.get("axes"), content[key])


def half_open(boxes_vox: np.ndarray, convention: BoxConvention) -> np.ndarray:
    """Return voxel boxes (N, 6) of a convention as half-open ones.

    Args:
        boxes_vox: low corner, then high corner.
        convention: "inclusive", where the max corner is the last voxel inside, gets the missing voxel (+1);
            "nndetection", where boxes are made of masks as `[min - 1, max + 1]`, loses the one before the first voxel.
    """
    if convention == "inclusive":
        grown: np.ndarray = boxes_vox + np.repeat([0.0, 1.0], 3)
        return grown
    if convention == "nndetection":
        low, high = boxes_vox[:, :3], boxes_vox[:, 3:]
        return np.concatenate([np.minimum(low + 1, high), high], axis=1)
    return boxes_vox


def _check_convention(header: _Header, convention: BoxConvention) -> None:
    if convention != "half-open" and header.frame is not None and header.frame.endswith("_mm"):
        raise UserError(
            f"{header.path}: boxes are {convention}, but the frame is '{header.frame}'; a last voxel exists only in "
            "voxels: leave the option out, or give voxel boxes"
        )


@dataclass(frozen=True)
class _Place:
    """Position of an entry's boxes in the scan's file, as stated beside its boxes."""

    grid: Grid | None = None
    boxes_vox: Any = None
    ignore_vox: Any = None


def _place(entry: Mapping[str, Any], name: str, header: _Header, convention: BoxConvention) -> _Place:
    if header.frame not in (None, LPS) or convention != "half-open":
        return _Place()
    document = entry.get("grid")
    if document is None:
        return _Place(None, entry.get("boxes_vox"), entry.get("ignore_vox"))
    advice = "write the file again, or leave the grid out"
    grid = Grid.from_json(checked(document, GridDocument, f"grid of case '{name}'", advice))
    return _Place(grid, entry.get("boxes_vox"), entry.get("ignore_vox"))


def _patient(entry: Mapping[str, Any], name: str) -> str | None:
    patient = entry.get("patient")
    if patient is not None and not isinstance(patient, str | int):
        raise UserError(f"targets of case '{name}': patient {patient!r:.80} is no name; name every patient by a text")
    return None if patient in (None, "") else str(patient)


def _named(path: Path, make: Any, *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{'case' if len(names) == 1 else f'{len(names)} cases:'} {shown}{rest}"
