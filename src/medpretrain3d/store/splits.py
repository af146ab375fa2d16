"""Training, validation and test splits: the file `splits.json` of a store.

{"train": [...], "val": [...], "test": [...], "unlabelled": [...],   as the raw data set has it
 "folds": [{"train": [...], "val": [...], "test": [...]}],           official ones, or those of `medpretrain3d split`
 "label_order": [...]}                                               small label budgets are its first cases
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import LARGE, SCHEMA, Text, checked, json_text, read_json
from medpretrain3d.errors import UserError

SPLITS = "splits.json"
LABEL_FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the training cases that label-efficiency studies look at."""

_ADVICE = "correct it, or remove it and prepare the store again"


@with_config(SCHEMA)
class _Document(TypedDict, total=False):
    """Schema of `splits.json` beside a list of cases per split."""

    folds: list[dict[str, list[Text]]]
    label_order: list[Text]


Fold = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Splits:
    """The cases of a store by what they are for."""

    named: Fold
    """`train`, `val`, `test`, `unlabelled` and whatever else the raw data set names; `train` is always there."""
    folds: tuple[Fold, ...] = ()
    """Each has `train` and `val`, and `test` where the fold has a test part of its own."""
    label_order: tuple[str, ...] = ()
    """Labelled cases so that every beginning of the list resembles the whole; empty where nobody wrote one."""

    def fold(self, number: int | None) -> Fold:
        """The cases of a fold by split; None for the named splits. A fold without test cases takes the named ones.

        Raises:
            UserError: there is no such fold.
        """
        if number is None:
            return self.named
        if not 0 <= number < len(self.folds):
            there = f"{len(self.folds)} folds, counted from 0" if self.folds else "no folds"
            raise UserError(f"fold {number}: the store has {there}; write others with `medpretrain3d split STORE`")
        return self._whole(self.folds[number])

    def whole_folds(self) -> tuple[Fold, ...]:
        """Return every fold with the test cases it is tested on."""
        return tuple(self._whole(fold) for fold in self.folds)

    def held_out_of(self, number: int) -> tuple[str, ...]:
        """Return the cases that a fold holds out: its own test cases, or where it has none its validation cases.

        Raises:
            UserError: there is no such fold.
        """
        self.fold(number)
        return self.folds[number].get("test") or self.folds[number].get("val", ())

    @property
    def held_out(self) -> dict[str, int]:
        """The fold that validates on each case; the last one where several do."""
        return {case_id: number for number, fold in enumerate(self.folds) for case_id in fold.get("val", ())}

    def _whole(self, fold: Fold) -> Fold:
        return {"test": self.named.get("test", ()), **fold}


def label_budget(train: Sequence[str], order: Sequence[str], count: int) -> tuple[str, ...]:
    """The `count` training cases that are labelled first, in the order of `train`; each budget holds the smaller ones.

    Args:
        train: ids of the training cases.
        order: the store's label order. Training cases it does not name follow in a fixed random order.
        count: how many.

    Raises:
        UserError: fewer than one, or more than there are.
    """
    if not 1 <= count <= len(train):
        raise UserError(f"num_train_cases {count}: there are {len(train)} training cases; give 1 to {len(train)}")
    place = {case_id: number for number, case_id in enumerate(order)}
    # Philox, seed 0: budgets drawn before stores had a label order stay what they were.
    drawn = np.argsort(np.random.Generator(np.random.Philox(0)).permutation(len(train)))
    ranked = sorted(range(len(train)), key=lambda index: place.get(train[index], len(place) + int(drawn[index])))
    return tuple(train[index] for index in sorted(ranked[:count]))


def fraction_count(num_cases: int, fraction: float) -> int:
    """Return the number of cases of a label fraction, at least one.

    Raises:
        UserError: the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"label_fraction {fraction}: wanted a share above 0 and at most 1, as 0.1 for 10 %")
    return max(1, math.ceil(fraction * num_cases - 1e-9))


def read_splits(store: Path, known: Collection[str]) -> Splits:
    """Read the file; cases that it does not name are for training.

    Args:
        store: the store's folder.
        known: ids of its cases.

    Raises:
        UserError: the file is damaged, names a case the store does not have, one case twice, or a test case in a fold's
            training or validation part.
    """
    splits = read_split_file(store)
    named = dict(splits.named)
    home = _check(str(store / SPLITS), named, known)
    _check_folds(store / SPLITS, splits, known)
    unlisted = tuple(case_id for case_id in known if case_id not in home)
    if unlisted or "train" not in named:
        named["train"] = (*named.get("train", ()), *unlisted)
    return Splits(named, splits.folds, splits.label_order)


def read_split_file(store: Path) -> Splits:
    """Return what the file says, whatever cases the store has; nothing where there is none.

    Raises:
        UserError: the file is damaged.
    """
    file = store / SPLITS
    document = read_json(file, _Document, _ADVICE, LARGE) if file.is_file() else _Document()
    folds = tuple({name: tuple(ids) for name, ids in fold.items()} for fold in document.get("folds", []))
    order = tuple(document.get("label_order", []))
    lists = {name: ids for name, ids in document.items() if name not in ("folds", "label_order")}
    named = {name: tuple(ids) for name, ids in checked(lists, dict[str, list[Text]], str(file), _ADVICE).items()}
    return Splits(named, folds, order)


def write_splits(store: Path, splits: Splits) -> None:
    """Write the file completely or not at all."""
    document: dict[str, Any] = {name: list(ids) for name, ids in splits.named.items()}
    if splits.folds:
        document["folds"] = [{name: list(ids) for name, ids in fold.items()} for fold in splits.folds]
    if splits.label_order:
        document["label_order"] = list(splits.label_order)
    write_text(store / SPLITS, json_text(document, indent=1))


def check_splits(file: Path, splits: Splits) -> None:
    """Refuse named splits or folds of which one names a case twice, whatever cases the store has.

    Raises:
        UserError: one does.
    """
    parts = {str(file): splits.named, **{f"{file}: fold {number}": fold for number, fold in enumerate(splits.folds)}}
    for where, split in parts.items():
        _check(where, split, {case_id for ids in split.values() for case_id in ids})


def _check_folds(file: Path, splits: Splits, known: Collection[str]) -> None:
    for number, fold in enumerate(splits.whole_folds()):
        _check(f"{file}: fold {number}", fold, known)


def _check(where: str, split: Fold, known: Collection[str]) -> dict[str, str]:
    strangers = [case_id for ids in split.values() for case_id in ids if case_id not in known]
    if strangers:
        raise UserError(f"{where}: names {len(strangers)} cases the store does not have, first '{strangers[0]}'")
    home: dict[str, str] = {}
    for name, ids in split.items():
        if len(set(ids)) < len(ids):
            twice = next(case_id for case_id in ids if ids.count(case_id) > 1)
            raise UserError(f"{where}: case '{twice}' is twice in '{name}'; keep one of them")
        for case_id in ids:
            if home.setdefault(case_id, name) != name:
                raise UserError(f"{where}: case '{case_id}' is in '{home[case_id]}' and in '{name}'; keep one of them")
    return home
