"""Folders of masks: what was found beside what was there, paired by file name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import LARGE, SCHEMA, read_json, read_table
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.files import read_predictions
from medpretrain3d.evaluation.mask_detection import MaskedScan
from medpretrain3d.evaluation.overlap import ScanOverlap, check_shapes, mask_iou, of_detection_map, of_instances

SCORE_COLUMNS = ("public_id", "label_id", "confidence")


SUFFIXES_FOUND = ("-label", "_detection_map")
"""What may follow the case in the name of a mask of what was found: RibFrac's and PI-CAI's."""
SUFFIXES_WANTED = ("-label", "_label")
ADVICE = 'name the class of each instance: {"instances": {"1": 0}}'


@with_config(SCHEMA)
class _Instances(TypedDict):
    """Schema of the classes of the instances in one map, as nnDetection has it."""

    instances: dict[str, int]


def instance_scans(found: Path, wanted: Path, scores: Path) -> list[ScanOverlap]:
    """Return instance maps and the confidence of their values, as in RibFrac.

    Args:
        found: folder of instance maps, `<case>.nii.gz` or `<case>-label.nii.gz`, 0 for background.
        wanted: folder of instance maps of the objects, under the same names.
        scores: CSV with the columns public_id, label_id (the value in the map) and confidence.

    Raises:
        UserError: a scan without a partner, masks that are unreadable or not on one grid, or scores that do not fit.
    """
    by_case = _read_scores(scores)
    overlaps = [of_instances(case, there, by_case.pop(case, {}), truth) for case, there, truth in _pairs(found, wanted)]
    if by_case:
        raise UserError(f"{scores}: scores of case '{next(iter(by_case))}', which has no mask in {found}")
    return overlaps


def detection_map_scans(found: Path, wanted: Path) -> list[ScanOverlap]:
    """Return detection maps (one confidence per finding, 0 elsewhere) and lesion masks, as in PI-CAI.

    Args:
        found: folder of `<patient>_<study>_detection_map.nii.gz`, or any format that is read; the suffix may be absent.
        wanted: folder of `<patient>_<study>_label.nii.gz` or without suffix. It may be the folder `found`, whose files
            are then told apart by their suffixes.

    Raises:
        UserError: a scan without a partner, or maps that are unreadable, not on one grid, or no detection maps.
    """
    return [of_detection_map(*pair) for pair in _pairs(found, wanted)]


def predicted_mask_scans(found: Path, wanted: Path) -> tuple[list[MaskedScan], tuple[str, ...]]:
    """Return what `predict --format json masks` wrote beside instance maps of the objects, and the names of classes.

    Args:
        found: folder with predictions.json and masks/, whose value `n` is the object of the case's n-th box.
        wanted: folder of instance maps, `<case>.nii.gz`, 0 for background; the class of each value is in
            `<case>.json` as nnDetection has it, `{"instances": {"1": 0}}`, and needs no file where there is one
            class or no value.

    Raises:
        UserError: a scan without a partner, masks that are unreadable or not on one grid, a value without a box or a
            class, or masks of other boxes than those of predictions.json, where that says which masks are theirs.
    """
    if not (found / "masks").is_dir():
        raise UserError(f"{found}: wanted the folder that `predict --format json masks` wrote, with masks/ in it")
    predictions = read_predictions(found / "predictions.json")
    _refuse_masks_of_others(found, [one.case for one in predictions.cases])
    by_case = {one.case: one for one in predictions.cases}
    scans = []
    for case, mask, truth in _pairs(found / "masks", wanted):
        boxes = by_case.pop(case, None)
        if boxes is None:
            raise UserError(f"{found / 'predictions.json'}: holds no case '{case}', of which there is a mask")
        check_shapes(case, mask, truth)
        values, objects = (np.unique(one[one != 0]) for one in (mask, truth))
        if len(values) and values[-1] > len(boxes.scores):
            raise UserError(f"case '{case}': instance {values[-1]} of the mask, but {len(boxes.scores)} boxes")
        iou = np.zeros((len(boxes.scores), len(objects)))
        iou[values.astype(int) - 1] = mask_iou(mask, truth)
        labels = _classes_of(wanted / f"{case}.json", objects, predictions.classes)
        scans.append(MaskedScan(case, boxes.scores, boxes.labels, labels, iou))
    if by_case:
        raise UserError(f"{found / 'masks'}: no mask of case '{next(iter(by_case))}', which predictions.json has")
    return scans, predictions.classes


def _refuse_masks_of_others(found: Path, cases: Sequence[str]) -> None:
    """Compare the masks with what predictions.json says of them, the SHA-256 of the file that numbers a case's boxes.

    Args:
        found: the folder of both.
        cases: of the entries of predictions.json, in its order.

    Raises:
        UserError: a mask is another one, or is of none of the boxes.
    """
    entries = read_json(found / "predictions.json", dict[str, Any], "predict again", LARGE, True)["predictions"]
    if not any("mask_sha256" in entry for entry in entries):
        return  # of an earlier version, or of another program
    masks = _files(found / "masks", SUFFIXES_FOUND, False)
    for case, entry in zip(cases, entries, strict=True):
        path, stated = masks.get(case), entry.get("mask_sha256")
        if path is None or (stated is None and not entry["boxes"]):
            continue
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if stated != sha256:
            of = "none" if stated is None else f"the one of SHA-256 {stated[:12]}"
            raise UserError(
                f"{path}: is not the mask of the boxes in predictions.json, which names {of} for case "
                f"'{case}' (this is {sha256[:12]}): another call of predict wrote it; predict again with "
                "--format json masks"
            )


def _classes_of(path: Path, values: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the class of each instance (G,), as the JSON file beside its map says.

    Raises:
        UserError: it does not say, or says one that there is not.
    """
    if not path.is_file() and (len(classes) == 1 or not len(values)):
        return np.zeros(len(values), dtype=np.int64)
    of_value = read_json(path, _Instances, ADVICE)["instances"]
    labels = np.array([of_value.get(str(int(value)), -1) for value in values], dtype=np.int64)
    if (wrong := np.flatnonzero((labels < 0) | (labels >= len(classes)))).size:
        value = int(values[wrong[0]])
        raise UserError(
            f"{path}: instance {value} is of class {of_value.get(str(value))}, wanted 0 to {len(classes) - 1}, a place "
            f"among the classes of the predictions, {list(classes)}"
        )
    return labels


def _pairs(found: Path, wanted: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Return case, what was found and what was there, one scan at a time."""
    from medpretrain3d.store.readers import read_scan

    is_shared = found.resolve() == wanted.resolve()
    there, truth = _files(found, SUFFIXES_FOUND, is_shared), _files(wanted, SUFFIXES_WANTED, is_shared)
    for folder, other, missing in (
        (found, wanted, truth.keys() - there.keys()),
        (wanted, found, there.keys() - truth.keys()),
    ):
        if missing:
            raise UserError(
                f"{folder}: no mask of case '{min(missing)}', which {other} has; a scan without anything is a mask of 0"
            )
    for case in sorted(truth):
        mask, true_mask = read_scan(there[case]), read_scan(truth[case])
        for one in (mask, true_mask):
            one.check_single_channel()
        true_voxels = true_mask.in_order_of(mask.grid)
        if true_voxels is None:
            ours, theirs = mask.grid.canonical()[0], true_mask.grid.canonical()[0]
            if ours.shape != theirs.shape:
                raise UserError(
                    f"case '{case}': mask of what was found has shape {ours.shape}, mask of the objects {theirs.shape} "
                    "(axes S, P, L); both must lie on one grid"
                )
            raise UserError(
                f"{there[case]}: lies elsewhere in the world than {truth[case]}: corners are up to "
                f"{theirs.corner_distance_vox(ours):.3g} voxels apart; write both on one grid"
            )
        yield case, mask.voxels[0], true_voxels[0]


def _files(folder: Path, suffixes: Sequence[str], is_shared: bool) -> dict[str, Path]:
    """Return the masks of a folder by case; of a shared one those with a suffix that the other kind does not have."""
    from medpretrain3d.store.readers import find_volumes, volume_stem

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of NIfTI masks, one per scan")
    files: dict[str, Path] = {}
    for path in find_volumes(folder):
        stem = volume_stem(path)
        suffix = next((suffix for suffix in suffixes if stem.endswith(suffix)), "")
        if is_shared and suffix != suffixes[-1]:
            continue
        case = stem.removesuffix(suffix)
        if case in files:
            raise UserError(f"{files[case]} and {path} are both of case '{case}'; keep one")
        files[case] = path
    if not files and is_shared:
        raise UserError(f"{folder}: holds no volume '<case>{suffixes[-1]}'; give two folders, or names with suffixes")
    if not files:
        raise UserError(f"{folder}: holds no volume; give a folder of NIfTI masks, one per scan")
    return files


def _read_scores(path: Path) -> dict[str, dict[int, float]]:
    table = read_table(path, SCORE_COLUMNS, "give the CSV of the instances' scores")
    try:
        rows = [(row["public_id"], int(row["label_id"]), float(row["confidence"])) for row in table]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: a row without whole label_id and number confidence ({error}); correct it") from error
    scores: dict[str, dict[int, float]] = {}
    for case, value, score in rows:
        of_case = scores.setdefault(case, {})
        if value in of_case:
            raise UserError(f"{path}: instance {value} of case '{case}' is listed twice; give every instance one row")
        if value != 0:  # RibFrac lists the background, too
            of_case[value] = score
    return scores
