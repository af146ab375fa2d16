"""Folds and label budgets that resemble the whole: patients in one piece, objects even by number, class and size.

After Sechidis et al. (2011), "On the stratification of multi-label data", for groups of cases: the rarest groups are
dealt out first, each to the fold that holds least of what the group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted
from medpretrain3d.store.splits import Fold, Splits, write_splits
from medpretrain3d.store.store import Store

NUM_FOLDS = 5
NUM_SIZES = 3
"""Objects of a class are small, medium or large, a third each."""
CANDIDATES = 8
"""Groups among which the next of the label order is chosen: enough to keep it even, few enough to stay random."""


@dataclass(frozen=True)
class Stratum:
    """Stratification variables of one case."""

    case_id: str
    labels: np.ndarray
    """(N,) class of each object."""
    diameters_mm: np.ndarray
    """(N,) longest edge of each object's box."""
    groups: tuple[str, ...] = ()
    """Names that bind cases together, as of a patient or of a scan that is there twice."""


def split_store(store: Store, num_folds: int = NUM_FOLDS, seed: int = 0) -> Splits:
    """Write folds and a label order of a store's labelled cases that are not for testing; keeps the named splits.

    Raises:
        UserError: the store has no classes, or fewer patients than folds.
    """
    if not store.classes:
        raise UserError(
            f"{store.place}: holds no classes, so there is nothing to stratify; prepare a labelled data set"
        )
    strata = [_stratum(store, case_id) for split in ("train", "val") for case_id in store.splits.get(split, ())]
    folds = make_folds(strata, num_folds, seed)
    splits = Splits(store.splits, tuple(folds), label_order(strata, seed))
    write_splits(store.path, splits)
    return splits


def make_folds(strata: Sequence[Stratum], num_folds: int, seed: int = 0) -> list[dict[str, tuple[str, ...]]]:
    """Deal out cases to folds; each case validates once. The same cases and seed give the same folds.

    Without groups the numbers of validation cases differ by at most one.

    Raises:
        UserError: fewer groups than folds, or fewer than two folds.
    """
    groups = _groups(strata, seed)
    if not 2 <= num_folds <= len(groups):
        raise UserError(
            f"{num_folds} folds of {len(strata)} cases of {len(groups)} patients; give 2 to {len(groups)} folds"
        )
    return _folds(strata, _deal(strata, groups, num_folds, np.full(len(strata), -1)), num_folds)


def complete_folds(store: Store) -> list[str]:
    """Deal out the cases that are in none of a store's folds to these, which keep the cases they have.

    A case goes where its patient is. Folds that are not those of one cross-validation stay as they are, see
    `is_cross_validation`.

    Returns:
        A line that says so; empty where there was nothing to do.
    """
    splits = store.all_splits
    fold_of = {case_id: number for number, fold in enumerate(splits.folds) for case_id in fold.get("val", ())}
    case_ids = [case_id for split in ("train", "val") for case_id in store.splits.get(split, ())]
    if not is_cross_validation(splits.folds) or fold_of.keys() >= set(case_ids):
        return []
    strata = [_stratum(store, case_id) for case_id in case_ids]
    before = np.array([fold_of.get(case_id, -1) for case_id in case_ids])
    dealt = _deal(strata, _groups(strata, 0), len(splits.folds), before)
    late = sorted(case_ids[index] for index in np.flatnonzero(dealt != before))
    if not late:
        return []
    write_splits(store.path, Splits(store.splits, tuple(_folds(strata, dealt, len(splits.folds))), splits.label_order))
    return [
        f"{store.place}: {counted(len(late), 'case')} that came after its {len(splits.folds)} folds went into them, "
        f"first '{late[0]}'; `medpretrain3d split` deals out all anew"
    ]


def is_cross_validation(folds: Sequence[Fold]) -> bool:
    """Return whether each case of some folds validates in one of them and is trained on in all others."""
    validated = [case_id for fold in folds for case_id in fold.get("val", ())]
    cases = set(validated)
    return (
        bool(folds)
        and len(cases) == len(validated)
        and all(fold.keys() == {"train", "val"} and {*fold["train"], *fold["val"]} == cases for fold in folds)
    )


def _deal(strata: Sequence[Stratum], groups: Sequence[list[int]], num_folds: int, fold_of: np.ndarray) -> np.ndarray:
    """Return the fold of each case, (cases,), from those that are dealt out already; the others have -1.

    A group of which two cases are in different folds already gets no further case dealt out.
    """
    features, fold_of = _features(strata), fold_of.copy()
    waiting = []
    for group in groups:
        homes = set(fold_of[group].tolist()) - {-1}
        if len(homes) == 1:
            fold_of[group] = homes.pop()
        elif not homes:
            waiting.append((group, features[group].sum(axis=0)))
    held = np.stack([features[fold_of == fold].sum(axis=0) for fold in range(num_folds)])
    sizes = np.array([int((fold_of == fold).sum()) for fold in range(num_folds)])
    for group, has in sorted(waiting, key=lambda one: -float(one[1] @ one[1])):
        free = np.flatnonzero(sizes + len(group) <= len(strata) // num_folds)
        free = free if len(free) else np.flatnonzero(sizes == sizes.min())
        # Adding `has` changes the squared distance from an even share by 2 has @ held plus what is equal for all folds.
        fold = min(free.tolist(), key=lambda fold: (float(held[fold] @ has), int(sizes[fold])))
        held[fold] += has
        sizes[fold] += len(group)
        fold_of[group] = fold
    return fold_of


def _folds(strata: Sequence[Stratum], fold_of: np.ndarray, num_folds: int) -> list[dict[str, tuple[str, ...]]]:
    ids = np.array([stratum.case_id for stratum in strata])
    sides = [(ids[(fold_of != fold) & (fold_of >= 0)], ids[fold_of == fold]) for fold in range(num_folds)]
    return [{"train": tuple(sorted(train.tolist())), "val": tuple(sorted(val.tolist()))} for train, val in sides]


def label_order(strata: Sequence[Stratum], seed: int = 0) -> tuple[str, ...]:
    """Return cases in an order of which every beginning resembles the whole, patients in one piece."""
    features = _features(strata)
    waiting = _groups(strata, seed)
    whole, taken = features.sum(axis=0), np.zeros(features.shape[1])
    order: list[int] = []
    while waiting:
        sums = np.stack([features[group].sum(axis=0) for group in waiting[:CANDIDATES]])
        counts = np.array([len(group) for group in waiting[:CANDIDATES]])
        share = (len(order) + counts[:, None]) / len(strata)
        group = waiting.pop(int(((taken + sums - share * whole) ** 2).sum(axis=1).argmin()))
        taken += features[group].sum(axis=0)
        order += group
    return tuple(strata[index].case_id for index in order)


def seeded_label_order(store: Store, case_ids: Sequence[str], seed: int) -> tuple[str, ...]:
    """Return some cases of a store in a label order that the seed draws.

    A study that takes one order for all its seeds measures one choice of labeled cases; see `label_order`.
    """
    return label_order([_stratum(store, case_id) for case_id in case_ids], seed)


def _stratum(store: Store, case_id: str) -> Stratum:
    case = store.case(case_id)
    extents_mm = (case.boxes[:, 3:] - case.boxes[:, :3]) * np.array(case.grid.spacing_mm)
    entry = store.entries[case_id]
    patient, same_scan = entry["patient"], f"scan {entry['voxels']}"
    groups = (same_scan, f"patient {patient}") if patient is not None else (same_scan,)
    return Stratum(case_id, case.labels, extents_mm.max(axis=1, initial=0.0), groups)


def _features(strata: Sequence[Stratum]) -> np.ndarray:
    """(cases, F): a one, the bin of the number of objects, objects per class and size; each column sums to one."""
    num_classes = 1 + max((int(stratum.labels.max(initial=0)) for stratum in strata), default=0)
    bins = [len(stratum.labels).bit_length() for stratum in strata]  # 0, 1, 2-3, 4-7, ... objects
    all_labels = np.concatenate([stratum.labels for stratum in strata])
    all_mm = np.concatenate([stratum.diameters_mm for stratum in strata])
    limits = np.zeros((num_classes, NUM_SIZES - 1))
    for label in np.unique(all_labels):
        limits[label] = np.quantile(all_mm[all_labels == label], np.arange(1, NUM_SIZES) / NUM_SIZES)
    rows = []
    for stratum, number in zip(strata, bins, strict=True):
        objects = np.zeros((num_classes, NUM_SIZES))
        sizes = (stratum.diameters_mm[:, None] > limits[stratum.labels]).sum(axis=1)
        np.add.at(objects, (stratum.labels, sizes), 1)
        rows.append(np.concatenate([[1.0], np.eye(max(bins) + 1)[number], objects.ravel()]))
    features = np.stack(rows)
    result: np.ndarray = features / np.maximum(features.sum(axis=0), 1)
    return result


def _groups(strata: Sequence[Stratum], seed: int) -> list[list[int]]:
    """Indices of the cases that belong together, in a random order that depends on their ids and the seed alone."""
    by_id = sorted(range(len(strata)), key=lambda index: strata[index].case_id)
    first_of: dict[str, int] = {}
    root = list(range(len(strata)))

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    for index in by_id:
        for name in strata[index].groups:
            root[find(index)] = find(first_of.setdefault(name, index))
    members: dict[int, list[int]] = {}
    for index in by_id:
        members.setdefault(find(index), []).append(index)
    groups = list(members.values())
    return [groups[number] for number in np.random.Generator(np.random.Philox(seed)).permutation(len(groups))]
