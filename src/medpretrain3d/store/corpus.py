"""Several stores read as one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted
from medpretrain3d.store.file_names import words_of
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.pseudonym import is_of_a_header
from medpretrain3d.store.staging import staged
from medpretrain3d.store.store import Case, Store
from medpretrain3d.store.unit import Unit

LABELED = "labeled"
"""Every case but those of the split `UNLABELED`."""
UNLABELED = "unlabelled"


@dataclass(frozen=True)
class CaseRef:
    """A case of one of the stores in use."""

    store: Store
    case_id: str
    dataset: int = 0
    """Which of the corpus' stores it is of."""

    def open(self) -> Case:
        """Read the sidecar; voxels stay on disk."""
        return self.store.case(self.case_id)

    @property
    def voxels(self) -> str:
        """Hash of the scan's voxels, the same for copies under other names; from the index."""
        return str(self.store.entries[self.case_id]["voxels"])

    @property
    def patient(self) -> tuple[int, str] | None:
        """Store and pseudonym of the patient, from the index; None where each case is a patient of its own.

        A pseudonym that means one patient in every store has -1 for the store.
        """
        patient = self.store.entries[self.case_id]["patient"]
        return None if patient is None else (-1 if is_of_a_header(str(patient)) else self.dataset, str(patient))

    @property
    def counts(self) -> Sequence[int]:
        """Objects of each class, from the index."""
        counts: Sequence[int] = self.store.entries[self.case_id]["counts"]
        return counts

    @property
    def has_mask(self) -> bool:
        """Whether the case has a mask, from the index."""
        return bool(self.store.entries[self.case_id]["has_mask"])


class Corpus:
    """Cases of one or more stores of the same spacing and number of channels.

    Args:
        paths: folders or URLs of stores.
        stage_to: folder on a disk of this node to which they are copied, and where their copies are read.

    Raises:
        UserError: no path, a folder that is no store, or stores of different spacing or number of channels, or of the
            same channels in another order.
    """

    def __init__(self, paths: Sequence[Path | str], stage_to: str | None = None) -> None:
        if not paths:
            raise UserError("data.store is empty; name at least one store written by `medpretrain3d prepare`")
        self.stores = [Store(path if stage_to is None else staged(path, stage_to)) for path in paths]
        spacings = {store.spacing_mm for store in self.stores}
        if len(spacings) > 1:
            raise UserError(
                f"stores of different spacing: {', '.join(f'{s.place}: {s.spacing_mm}' for s in self.stores)}; "
                "prepare them with the same --spacing-mm"
            )
        self.spacing_mm = self.stores[0].spacing_mm
        first = self.stores[0]
        for store in self.stores:
            if len(store.channel_names) != len(first.channel_names):
                raise UserError(
                    f"stores of different channels: {_channels(first)}, {_channels(store)}; a network has one number "
                    "of channels, so use stores of one kind of scans together"
                )
            check_channel_order(first, store)

    @property
    def name(self) -> str:
        """Names of the stores, joined."""
        return "+".join(store.path.name for store in self.stores)

    @property
    def classes(self) -> tuple[tuple[str, ...], ...]:
        """Class names of each store; labels of different stores have nothing to do with each other."""
        return tuple(store.classes for store in self.stores)

    @property
    def fingerprint(self) -> str:
        """Changes when any voxel or label of any case does."""
        return joined_fingerprint(self.stores)

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """Intensity unit of each store's scans."""
        return tuple(store.unit for store in self.stores)

    def doubts_about(self, window: Normalization) -> list[str]:
        """Return warnings about a window that means nothing to the values of a store."""
        return [
            f"{store.place}: its values have no unit, and the constants of {window} do; ZScore() suits them, or "
            "PerUnit beside CT"
            for store in self.stores
            if not window.suits(store.unit)
        ]

    def cases(self, split: str, fold: int | None = None) -> list[CaseRef]:
        """Return cases of a split of every store; `all` for all cases, `labeled` for those that annotations name.

        Args:
            split: its name, in either spelling of (un)labelled.
            fold: whose split is meant; None for the named splits.

        Raises:
            UserError: none of the stores has such a split or fold, the split is empty, or `all` cases of a fold are
                asked for, which hold those it is trained on.
        """
        asked, split = split, {"labelled": LABELED, "unlabeled": UNLABELED}.get(split, split)
        if split in ("all", LABELED) and fold is not None:
            raise UserError(
                f"fold {fold} with split '{split}': wanted one of its splits, as val for the cases it held out"
            )
        splits = [store.all_splits.fold(fold) for store in self.stores]
        left_out = [frozenset(of_store.get(UNLABELED, ()) if split == LABELED else ()) for of_store in splits]
        found = [
            CaseRef(store, case_id, dataset)
            for dataset, (store, of_store) in enumerate(zip(self.stores, splits, strict=True))
            for case_id in (store.case_ids if split in ("all", LABELED) else of_store.get(split, ()))
            if case_id not in left_out[dataset]
        ]
        if not found:
            known = ", ".join(sorted({name for of_store in splits for name, ids in of_store.items() if ids}))
            where = self.name if fold is None else f"fold {fold} of {self.name}"
            raise UserError(f"split '{asked}' has no case in {where}; splits with cases: {known}")
        return found

    def scored_cases(self, split: str, fold: int | None = None) -> tuple[list[CaseRef], str]:
        """Return the cases of a split that can be scored, and a note on those of `all` that cannot.

        Nobody looked for objects in a scan without annotations, so it is no negative.

        Args:
            split: its name.
            fold: whose split is meant; None for the named splits.

        Raises:
            UserError: see `cases`, or its scans are unlabelled.
        """
        if split in (UNLABELED, "unlabeled") and self.cases(split, fold):
            raise UserError(
                f"{self.name}: split '{split}': its scans have no annotations, so there is nothing to score them "
                "against; name a split with labels"
            )
        found = self.cases(LABELED if split == "all" and fold is None else split, fold)
        known = set(found)
        left_out = [one for one in self.cases("all") if one not in known] if split == "all" else []
        if not left_out:
            return found, ""
        return found, (
            f"note: {counted(len(left_out), 'case')} without annotations left out, first '{left_out[0].case_id}': "
            "nobody looked for objects there, so they are no negatives"
        )

    def hold_out(self, split: str | Sequence[CaseRef], count: int) -> tuple[list[CaseRef], list[CaseRef]]:
        """Divide a split or some cases into those to train on and `count` held-out ones, chosen not by the run's seed.

        Copies of a case that is held out, in whatever store and under whatever name, are not trained on, nor are other
        scans of its patient.

        Raises:
            UserError: nothing would be left to train on.
        """
        cases = self.cases(split) if isinstance(split, str) else list(split)
        if count >= len(cases):
            raise UserError(f"num_val_cases {count} leaves none of the {len(cases)} cases to train on; lower it")
        held_out = set(nested_order(len(cases))[:count])
        voxels = {cases[index].voxels for index in held_out}
        patients = {cases[index].patient for index in held_out} - {None}
        train = [
            case
            for index, case in enumerate(cases)
            if index not in held_out and case.voxels not in voxels and case.patient not in patients
        ]
        if not train:
            raise UserError(
                f"num_val_cases {count} leaves none of the {len(cases)} cases to train on but copies and other scans "
                "of the same patients; lower it"
            )
        return train, [cases[index] for index in sorted(held_out)]


def check_channel_order(first: Store, second: Store) -> None:
    """Refuse stores that name the same channels in another order, one of which a network would take for another.

    Other names mean nothing: nobody tells whether `T2` and `channel 0` are one.

    Raises:
        UserError: they do.
    """
    ours, theirs = ([words_of(name) for name in store.channel_names] for store in (first, second))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise UserError(
            f"stores of the same channels in another order: {_channels(first)}, {_channels(second)}; prepare one of "
            "them again with its channels in the order of the other"
        )


def joined_fingerprint(stores: Sequence[Store]) -> str:
    """Return one fingerprint of some stores: that of a single one, and else a hash of all."""
    joined = "\n".join(store.fingerprint for store in stores)
    return hashlib.sha256(joined.encode()).hexdigest() if len(stores) > 1 else joined


def _channels(store: Store) -> str:
    return f"{store.place}: {len(store.channel_names)} ({', '.join(store.channel_names)})"


def nested_order(count: int, seed: int = 0) -> list[int]:
    """A fixed random order: its first n are part of its first n + 1, so small label budgets nest in large ones."""
    return [int(index) for index in np.random.Generator(np.random.Philox(seed)).permutation(count)]
