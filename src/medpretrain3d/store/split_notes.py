"""Notes on the splits of a store: scans that are there twice, patients on both sides, cases that no fold has."""

from __future__ import annotations

from collections import defaultdict

from medpretrain3d.lines import counted
from medpretrain3d.store.duplicates import DUPLICATES
from medpretrain3d.store.store import Store

SIDES = ("train", "val", "test")


def split_notes(store: Store, fold: int | None = None) -> list[str]:
    """Return one line per thing, empty where there is nothing to say.

    Args:
        store: whose splits.
        fold: one of its folds; None for its named splits.

    Raises:
        UserError: there is no such fold.
    """
    splits = store.all_splits.fold(fold)
    home = {case_id: name for name, ids in {**store.splits, **splits}.items() for case_id in ids}
    return [*_copies(store, home), *_shared_patients(store, home)]


def every_split_note(store: Store) -> list[str]:
    """Return the notes on the named splits, those on each fold that say more, and one on cases that no fold has."""
    notes = split_notes(store)
    for fold in range(len(store.all_splits.folds)):
        notes += [f"fold {fold}: {note}" for note in split_notes(store, fold) if note not in notes]
    return [*notes, *_in_no_fold(store)]


def _in_no_fold(store: Store) -> list[str]:
    folds = store.all_splits.folds
    dealt = {case_id for fold in folds for ids in fold.values() for case_id in ids}
    left = [one for split in ("train", "val") for one in store.splits.get(split, ()) if one not in dealt]
    if not folds or not left:
        return []
    return [
        f"{store.place}: {counted(len(left), 'case')} for training or validation are in none of its {len(folds)} "
        f"folds, first '{left[0]}', so runs of folds do without; `medpretrain3d split` deals out all"
    ]


def _copies(store: Store, home: dict[str, str]) -> list[str]:
    """Return copies across splits are used by nothing, so that none is trained on and tested."""
    pairs = []
    for group in store.duplicates:
        kept = [case_id for case_id in group if home.get(case_id, DUPLICATES) != DUPLICATES]
        pairs += [(one, kept[0]) for one in group if home.get(one) == DUPLICATES and kept]
    if not pairs:
        return []
    copy, original = pairs[0]
    return [
        f"{store.place}: {len(pairs)} cases hold the same voxels as a case of another split and are used by nothing, "
        f"first '{copy}', a copy of '{original}' of {home[original]}"
    ]


def _shared_patients(store: Store, home: dict[str, str]) -> list[str]:
    cases_of: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case_id, entry in store.entries.items():
        if entry["patient"] is not None and home.get(case_id) in SIDES:
            cases_of[str(entry["patient"])][home[case_id]].append(case_id)
    notes = []
    for seen, held in (("train", "test"), ("val", "test"), ("train", "val")):
        shared = [sides for sides in cases_of.values() if seen in sides and held in sides]
        if shared:
            notes.append(
                f"{store.place}: {len(shared)} patients have scans in {seen} and in {held} "
                f"({sum(len(sides[held]) for sides in shared)} {held} cases), first '{shared[0][seen][0]}' and "
                f"'{shared[0][held][0]}': what is measured there is better than it will be on new patients"
            )
    return notes
