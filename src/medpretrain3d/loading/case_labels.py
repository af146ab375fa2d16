"""Labels of whole cases, from a table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medpretrain3d.documents import NA_VALUES, Row, json_text, read_table
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.views import OneView, Sample, Unlabeled
from medpretrain3d.store.corpus import CaseRef, Corpus


class CaseLabelView(OneView):
    """One crop with the labels of its case: `image` (C, D, H, W) and `case_label`.

    `case_label` is () int64 where a case has one label, and (K,) float32 of 0 and 1 with `is_multi_label`. Labels are
    numbered in the order of the alphabet.

    Args:
        table: a CSV file with the columns `case` and `label`. With `is_multi_label` a case has a row per label, and one
            with an empty label where it has none. Where scans of several stores have one case id, the column `store`
            tells them apart: the name of the store's folder.
        is_multi_label: whether a case may have several labels, or none.
        unlabeled: what to do about cases that the table does not name: `error`, or `skip` them, which is said.

    Raises:
        UserError: a table that is missing or lacks a column, holds one label only, or names a case twice; later, a row
            that means several scans.
    """

    def __init__(self, table: str, is_multi_label: bool = False, unlabeled: Unlabeled = "error") -> None:
        self.table = table
        self.is_multi_label = is_multi_label
        self.unlabeled: Unlabeled = unlabeled
        advice = "wanted a CSV file with the columns case and label"
        rows = read_table(Path(table), ("case", "label"), advice, na_values=NA_VALUES)
        self._names_stores = any("store" in row for row in rows)
        self.labels_of = _labels_of(rows, table, is_multi_label)
        """By case id, or by `store/case` where the table names stores."""
        self.names = tuple(sorted({name for names in self.labels_of.values() for name in names}))
        if len(self.names) < (1 if is_multi_label else 2):
            raise UserError(f"{table}: holds the labels {list(self.names)}, wanted at least two to choose from")

    def classes(self, corpus: Corpus) -> tuple[tuple[str, ...], ...]:
        """Return the labels of the table, whatever the stores hold."""
        return (self.names,)

    @property
    def fingerprint(self) -> str:
        """Hash of the labels of all cases, wherever the table lies and in whatever order its rows are."""
        labels_of = sorted((case, sorted(labels)) for case, labels in self.labels_of.items())
        return hashlib.sha256(json_text(labels_of).encode()).hexdigest()

    def is_labeled(self, ref: CaseRef) -> bool:
        """Return whether the table names the case."""
        return self._key(ref) in self.labels_of

    def check_cases(self, cases: Sequence[CaseRef]) -> None:
        """Every row means one scan; copies of it in several stores share its labels."""
        voxels_of: dict[str, str] = {}
        for ref in filter(self.is_labeled, cases):
            key = self._key(ref)
            if voxels_of.setdefault(key, ref.voxels) != ref.voxels:
                raise UserError(
                    f"{self.table}: has a row for {key}, which is one scan in {ref.store.place} and another in "
                    "another store; add a column store with the names of their folders, which have to differ"
                )

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """Every case needs a row."""
        self.check_cases(order.cases)
        for ref in order.cases:
            if not self.is_labeled(ref):
                raise UserError(
                    f"{self.table}: has no row for case {ref.case_id} of {ref.store.place}; add one, or set "
                    "data.views.init_args.unlabeled to skip"
                )

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return a crop of the case at the position, with the labels of the case."""
        names = self.labels_of[self._key(order.at(position))]
        if self.is_multi_label:
            label = torch.tensor([float(name in names) for name in self.names])
        else:
            label = torch.tensor(self.names.index(names[0]))
        return {**super().draw(reader, order, position, random), "case_label": label}

    def _key(self, ref: CaseRef) -> str:
        return _named(ref.store.path.name, ref.case_id) if self._names_stores else ref.case_id


def _named(store: str, case: str) -> str:
    return f"{store}/{case}"


def _labels_of(rows: Sequence[Row], path: str, is_multi_label: bool) -> dict[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        case, label = row["case"], row["label"]
        if "store" in row:
            if not row["store"]:
                raise UserError(f"{path}: case {case} has no store, wanted the name of its folder in each row")
            case = _named(row["store"], case)
        if not is_multi_label and (case in found or not label):
            wrong = "two rows" if case in found else "no label"
            raise UserError(
                f"{path}: case {case} has {wrong}, wanted one label per case; with several or none, set "
                "data.views.init_args.is_multi_label"
            )
        found.setdefault(case, []).extend([label] if label else [])
    return dict(found)
