"""Training cases of several stores: none that is tested, under whatever name and in whatever store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.errors import UserError
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.store.duplicates import DUPLICATES
from medpretrain3d.store.held_cases import HeldCases
from medpretrain3d.store.store import Store

HELD = ("test", "val")
"""Splits whose cases are kept from training."""


@dataclass(frozen=True)
class TrainingCases:
    """The cases, and what a user should know of the choice."""

    cases: list[CaseRef]
    notes: tuple[str, ...] = ()


def training_cases(
    corpus: Corpus, split: str | None = None, fold: int | None = None, exclude: Sequence[Store] = ()
) -> TrainingCases:
    """Choose the cases of a corpus to train on.

    Without a split: all cases, labelled or not, but those that are tested or validated on: by the named splits and
    the test part of every fold, or by the one fold, and other scans of the same patients. With the name of a split: its
    cases; how many are other scans of a patient that is held is said. Copies of held cases, scans with the same voxels
    in whatever store, are left out of both. `all` and a split of held cases are taken as they are, which is said.

    Of what `exclude` holds, cases of the same name and other scans of the same patients are left out as well.

    Args:
        corpus: the stores.
        split: name of a split, `all`, or None.
        fold: the fold that is to be fine-tuned, in stores that have folds.
        exclude: further stores, whose test and validation cases (without `fold` those of every fold) are left out too.

    Raises:
        UserError: no case is left, in all or, without a split, of one of the stores; a fold that a store does not have.
    """
    chosen = [cases_of_store(store, dataset, split, fold) for dataset, store in enumerate(corpus.stores)]
    _check_each(corpus, chosen, split, fold)
    cases = [case for of_store in chosen for case in of_store]
    is_asked_for = split == "all" or split in HELD
    held = [] if is_asked_for else _held_cases(corpus.stores, fold, split is None)
    kept_from = {case.voxels for case in held}
    excluded = HeldCases.of(
        CaseRef(store, case_id)
        for store in exclude
        for ids in _held(store, fold, True, with_val=True).values()
        for case_id in ids
    )
    kept_from |= excluded.voxels
    copies = [case for case in cases if case.voxels in kept_from]
    notes = []
    if copies:
        notes.append(
            f"{len(copies)} of {len(cases)} cases are left out: their scans are test or validation cases "
            f"{'of data.exclude' if exclude else 'under another name'}, first '{copies[0].case_id}' of "
            f"{copies[0].store.place}"
        )
        cases = [case for case in cases if case.voxels not in kept_from]
    cases, note = _without_patients(cases, {case.patient for case in held} - {None}, split is None)
    notes += [note] if note else []
    cases, note = excluded.apart(cases)
    notes += [f"data.exclude: {note}"] if note else []
    if not cases:
        known = ", ".join(sorted({name for store in corpus.stores for name, ids in store.splits.items() if ids}))
        why = "; ".join(notes) or f"splits with cases: {known}"
        raise UserError(
            f"split '{split or 'train'}' has no case in {corpus.name} to train on; {why}; "
            "see data.split, data.fold and data.exclude"
        )
    return TrainingCases(cases, (*notes, *_tested_among(corpus, cases, fold)))


def cases_of_store(store: Store, dataset: int, split: str | None, fold: int | None) -> list[CaseRef]:
    """Choose cases by the store's own splits, see `training_cases`; there may be none.

    Raises:
        UserError: a fold that the store does not have, where it has any.
    """
    if split == "all":
        ids: Sequence[str] = store.case_ids
    elif split is not None:
        ids = _splits(store, fold).get(split, ())
    else:
        held = {one for ids in _held(store, fold, True).values() for one in ids}
        held |= set(_splits(store, fold).get(DUPLICATES, ())) | set(store.splits.get(DUPLICATES, ()))
        ids = [case_id for case_id in store.case_ids if case_id not in held]
    return [CaseRef(store, case_id, dataset) for case_id in ids]


def _splits(store: Store, fold: int | None) -> Mapping[str, Sequence[str]]:
    return store.all_splits.fold(fold if store.all_splits.folds else None)


def _held(store: Store, fold: int | None, every_fold: bool, with_val: bool = False) -> dict[str, tuple[str, ...]]:
    """Test and validation cases of a store: of the fold, or the named ones and what all folds test (or validate on)."""
    held = {name: tuple(_splits(store, fold).get(name, ())) for name in HELD}
    if fold is None and every_fold:
        for one in store.all_splits.folds:
            held["test"] += tuple(one.get("test", ()))
            held["val"] += tuple(one.get("val", ())) if with_val else ()
    return held


def _held_cases(stores: Sequence[Store], fold: int | None, every_fold: bool) -> list[CaseRef]:
    return [
        CaseRef(store, case_id, dataset)
        for dataset, store in enumerate(stores)
        for ids in _held(store, fold, every_fold).values()
        for case_id in ids
    ]


def _without_patients(
    cases: list[CaseRef], patients: Collection[tuple[int, str] | None], leave_out: bool
) -> tuple[list[CaseRef], str]:
    """Return cases without scans of some patients, or with them where they were named; and a note on these."""
    related = [case for case in cases if case.patient in patients]
    if not related:
        return cases, ""
    message = (
        f"other scans of patients that are tested or validated on, first '{related[0].case_id}' of "
        f"{related[0].store.place}"
    )
    if not leave_out:
        return cases, f"{len(related)} of {len(cases)} cases are {message}"
    left = [case for case in cases if case.patient not in patients]
    return left, f"{len(related)} of {len(cases)} cases are left out: {message}"


def _check_each(corpus: Corpus, chosen: Sequence[Sequence[CaseRef]], split: str | None, fold: int | None) -> None:
    for store, cases in zip(corpus.stores, chosen, strict=True):
        if split is None and not cases:
            advice = (
                ""
                if fold is not None or not store.all_splits.folds
                else ("set data.fold to the fold that will be fine-tuned and pretrain once for each, or ")
            )
            raise UserError(
                f"{store.place}: no case is left to train on, for each is tested or validated on; {advice}"
                "name a split with data.split (`all` takes test cases too)"
            )


def _tested_among(corpus: Corpus, cases: Sequence[CaseRef], fold: int | None) -> list[str]:
    """Return warnings where test cases are trained on because somebody asked for it."""
    notes = []
    for dataset, store in enumerate(corpus.stores):
        own = {case.case_id for case in cases if case.dataset == dataset}
        counts = {name: len(own & set(ids)) for name, ids in _held(store, fold, False).items()}
        if any(counts.values()):
            notes.append(
                f"{store.place}: TEST CASES ARE TRAINED ON: {counts['test']} test and {counts['val']} validation cases "
                f"are among its {len(own)} training cases, so a detector that starts from this has seen them"
            )
    return notes
