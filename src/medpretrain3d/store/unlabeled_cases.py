"""Scans that a detector sees without their labels while it is trained: none that the run is tested or validated on."""

from __future__ import annotations

from collections.abc import Sequence

from medpretrain3d.errors import UserError
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.store.held_cases import HeldCases
from medpretrain3d.store.store import Store
from medpretrain3d.store.training_cases import TrainingCases, cases_of_store


def unlabeled_cases(
    corpus: Corpus, labeled: Store, held: Sequence[CaseRef], split: str | None = None, fold: int | None = None
) -> TrainingCases:
    """Choose the cases of a corpus that are shown without labels.

    Without a split: all cases but those that their own stores test or validate on. With the name of a split: its cases.
    Of both, cases are left out that are held: by their scan, whatever they are called, by their name, or by their
    patient. `all` takes every case, held ones too, which is said.

    Args:
        corpus: the stores.
        labeled: the store with labels; the corpus may hold it, too, or another one with its scans.
        held: cases that the run validates and tests on, now or later.
        split: name of a split, `all`, or None.
        fold: of `labeled`, and of stores with the very same folds.

    Raises:
        UserError: no case is left.
    """
    found: list[CaseRef] = []
    for dataset, store in enumerate(corpus.stores):
        is_alike = store.all_splits.folds == labeled.all_splits.folds
        found += cases_of_store(store, dataset, split, fold if is_alike else None)
    known = HeldCases.of(held)
    if split == "all":
        num_held = sum(case in known for case in found)
        note = (
            f"data.unlabeled: TEST SCANS ARE TRAINED ON without labels: {num_held} of {len(found)} are tested or "
            "validated on, so what is measured says less about new scans"
        )
        return TrainingCases(found, (note,) if num_held else ())
    cases, note = known.apart(found)
    if not cases:
        splits = ", ".join(sorted({name for one in corpus.stores for name, ids in one.splits.items() if ids}))
        raise UserError(
            f"data.unlabeled: {corpus.name} has no case to learn from without labels"
            f"{f' in split {split}' if split else ' that is neither tested nor validated on'}"
            f"{f'; {note}' if note else ''}; splits with cases: {splits}; name another store, or a split with "
            "data.unlabeled_split (`all` takes test cases too)"
        )
    return TrainingCases(cases, (f"data.unlabeled: {note}",) if note else ())
