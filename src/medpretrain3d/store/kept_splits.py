"""What of an earlier `splits.json` holds on when a store is prepared again: held-out cases, folds, the label order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted
from medpretrain3d.store.duplicates import DUPLICATES, keep_apart
from medpretrain3d.store.splits import SPLITS, Fold, Splits, check_splits, read_split_file

SIDES = ("train", "val", "test")
_OTHERS = "`medpretrain3d split` deals out others"


@dataclass(frozen=True)
class KeptSplits:
    """Splits to write, and what they do not keep of an earlier file, or keep against the data set; a line each."""

    splits: Splits
    notes: tuple[str, ...] = ()


def kept_splits(
    store: Path,
    named: Fold,
    folds: Sequence[Fold],
    patients: Mapping[str, str | None],
    groups: Sequence[Sequence[str]],
) -> KeptSplits:
    """Join the splits of a data set with those of an earlier file, of which nothing goes without a word.

    The data set counts, but for two things, so that nothing that was held out is trained on by accident. A case that
    the file holds out and that the data set has for training stays held out, unless folds of the data set name it. And
    where the data set has no folds, those of the file are kept: without cases that are no longer for training or
    validation, and as long as none parts scans of one patient. Copies are kept apart in all of them.

    Args:
        store: the store's folder.
        named: cases of the data set by split; every case of the store is in one.
        folds: official ones.
        patients: of every case, None where it is a patient of its own.
        groups: of cases with the same voxels.

    Raises:
        UserError: the file names a case twice, so nobody knows whether it is held out.
    """
    file = store / SPLITS
    try:
        earlier = read_split_file(store)
    except UserError as error:
        lost = f"{error}; folds and label order of that file were not kept, nor what it held out"
        named = keep_apart(named, groups)
        return KeptSplits(Splits(named, _apart(folds, named, groups)), (lost,))
    check_splits(file, earlier)
    in_folds = {case_id for fold in folds for ids in fold.values() for case_id in ids}
    held = {case_id: split for case_id, split in _held(earlier, named).items() if case_id not in in_folds}
    named = keep_apart(_moved(named, held), groups)
    notes = [*_say_held(file, held), *_say_moved(file, earlier.named, named)]
    if folds:
        dealt = _apart(folds, named, groups)
        notes += _say_replaced(file, earlier.folds, dealt)
    else:
        dealt, told = _kept_folds(file, earlier.folds, named, patients)
        dealt = _apart(dealt, named, groups)
        notes += told
    dealt_out = _dealt_out(named)
    order = tuple(case_id for case_id in earlier.label_order if case_id in dealt_out)
    return KeptSplits(Splits(named, dealt, order), tuple(notes))


def _held(earlier: Splits, named: Fold) -> dict[str, str]:
    """Return the split of each case that the file holds out and the data set has for training."""
    train = set(named.get("train", ()))
    others = ("train", "unlabelled", DUPLICATES)
    return {one: split for split, ids in earlier.named.items() if split not in others for one in ids if one in train}


def _moved(named: Fold, split_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    moved = {name: [case_id for case_id in ids if case_id not in split_of] for name, ids in named.items()}
    for case_id, split in split_of.items():
        moved.setdefault(split, []).append(case_id)
    return {name: tuple(sorted(ids)) for name, ids in sorted(moved.items())}


def _dealt_out(named: Fold) -> set[str]:
    return {case_id for split in ("train", "val") for case_id in named.get(split, ())}


def _kept_folds(
    file: Path, earlier: Sequence[Fold], named: Fold, patients: Mapping[str, str | None]
) -> tuple[tuple[Fold, ...], list[str]]:
    """Return folds of the cases that are still for them, none where they are none any more; and what is to be said."""
    labeled, dealt_out = set(patients) - set(named.get("unlabelled", ())), _dealt_out(named)
    folds = []
    for number, fold in enumerate(earlier):
        usable = labeled if "test" in fold else dealt_out
        kept = {
            name: tuple(one for one in ids if one in (patients if name == DUPLICATES else usable))
            for name, ids in fold.items()
        }
        if emptied := [name for name, ids in fold.items() if ids and not kept[name] and name != DUPLICATES]:
            return (), [
                f"{file}: its {counted(len(earlier), 'fold')} did not last: fold {number} has no {emptied[0]} case "
                f"any more; {_OTHERS}"
            ]
        folds.append(kept)
    if parted := list(_parted(folds, patients)):
        one, other = parted[0]
        return (), [
            f"{file}: its {counted(len(earlier), 'fold')} did not last: scans of one patient are on both sides "
            f"{len(parted)} times, first '{one}' and '{other}'; {_OTHERS}"
        ]
    gone = sorted(_cases(earlier) - _cases(folds))
    told = f"{file}: {counted(len(gone), 'case')} left its folds, first '{gone[0]}'" if gone else ""
    return tuple(folds), [told] if told else []


def _cases(folds: Sequence[Fold]) -> set[str]:
    return {case_id for fold in folds for name in SIDES for case_id in fold.get(name, ())}


def _parted(folds: Sequence[Fold], patients: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """Yield of each fold and patient on both of its sides one case of each."""
    for fold in folds:
        first: dict[str, tuple[str, str]] = {}
        told = set()
        for side in SIDES:
            for case_id in fold.get(side, ()):
                patient = patients[case_id]
                if patient is None or patient in told:
                    continue
                other, other_side = first.setdefault(patient, (case_id, side))
                if other_side != side:
                    told.add(patient)
                    yield other, case_id


def _apart(folds: Sequence[Fold], named: Fold, groups: Sequence[Sequence[str]]) -> tuple[Fold, ...]:
    """Return folds without copies of what they are tested on, be these their own test cases or the named ones."""
    apart = [(fold, keep_apart({"test": named.get("test", ()), **fold}, groups)) for fold in folds]
    return tuple(
        {name: ids for name, ids in kept.items() if name in fold or name == DUPLICATES} for fold, kept in apart
    )


def _say_held(file: Path, held: Mapping[str, str]) -> list[str]:
    if not held:
        return []
    first = min(held)
    return [
        f"{file}: {counted(len(held), 'case')} that the data set has for training stay held out, as that file says, "
        f"first '{first}' in {held[first]}; remove the file to take the splits of the data set"
    ]


def _say_moved(file: Path, earlier: Fold, named: Fold) -> list[str]:
    was = {case_id: split for split, ids in earlier.items() for case_id in ids}
    moved = [
        (case_id, split)
        for split, ids in named.items()
        for case_id in ids
        if split not in (was.get(case_id, split), DUPLICATES)
    ]
    if not moved:
        return []
    first, split = min(moved)
    return [
        f"{file}: {counted(len(moved), 'case')} changed the split, as the data set says, first '{first}' from "
        f"{was[first]} to {split}"
    ]


def _say_replaced(file: Path, earlier: Sequence[Fold], folds: Sequence[Fold]) -> list[str]:
    common = _cases(earlier) & _cases(folds)
    sides = [[{name: common & set(fold.get(name, ())) for name in SIDES} for fold in some] for some in (earlier, folds)]
    if not earlier or sides[0] == sides[1]:
        return []
    return [f"{file}: its {counted(len(earlier), 'fold')} are replaced by the {len(folds)} of the data set; {_OTHERS}"]
