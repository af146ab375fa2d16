"""The file of a data set's folds, `splits.json` or nnU-Net's `splits_final.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import Leftover
from medpretrain3d.ingest.importers.files import read_json

FOLD_SPLITS = ("train", "val", "test")
_WANTED_FOLD = 'wanted {"train": [ids], "val": [ids]}, and perhaps "test"'


def read_folds(path: Path, known: Mapping[str, Any]) -> tuple[tuple[dict[str, tuple[str, ...]], ...], list[Leftover]]:
    """Return the folds of the splits file, and its ids without files, which may be those of a part of the data set.

    Args:
        path: of the file.
        known: cases of the data set by their ids.

    Raises:
        UserError: a fold is damaged, names a case twice or knows none of the cases.
    """
    folds = read_json(path)
    folds = [folds] if isinstance(folds, dict) else folds
    strangers: list[str] = []
    for number, fold in enumerate(folds if isinstance(folds, list) else [None]):
        if not isinstance(fold, dict) or not all(_are_ids(fold.get(split, [])) for split in FOLD_SPLITS):
            raise UserError(f"{path}: fold {number}: {_WANTED_FOLD}")
        if strange := (set(fold) - set(FOLD_SPLITS)) | ({"train", "val"} - set(fold)):
            what = "has no" if min(strange) in FOLD_SPLITS else "has an unknown"
            raise UserError(f"{path}: fold {number}: {what} '{min(strange)}'; {_WANTED_FOLD}")
        for one, other in combinations(FOLD_SPLITS, 2):
            if twice := set(fold.get(one, [])) & set(fold.get(other, [])):
                raise UserError(f"{path}: fold {number}: '{min(twice)}' is in {one} and in {other}; keep one of them")
        named = {case_id for ids in fold.values() for case_id in ids}
        if named and not named & set(known):
            raise UserError(
                f"{path}: fold {number}: no id is that of a file in imagesTr; wanted ids like '{next(iter(known), '')}'"
            )
        strangers += sorted(named - set(known) - set(strangers))
    found = tuple(
        {split: tuple(case_id for case_id in ids if case_id in known) for split, ids in fold.items()} for fold in folds
    )
    return found, [Leftover(one, f"ids of {path.name} that meet no image in imagesTr") for one in strangers]


def with_tests(
    folds: Sequence[Mapping[str, tuple[str, ...]]], tested: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], ...]:
    """Return folds that all have test cases of their own where one has: else they would be tested on those of that one.

    Args:
        folds: of the splits file.
        tested: cases that are tested whatever the fold, those of imagesTs and labelsTs.
    """
    if not any(fold.get("test") for fold in folds):
        return tuple({split: ids for split, ids in fold.items() if split != "test"} for fold in folds)
    return tuple({**fold, "test": (*fold.get("test", ()), *tested)} for fold in folds)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
