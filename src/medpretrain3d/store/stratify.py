"""Folds and label budgets that resemble the whole: patients in one piece, objects even by number, class and size.

After Sechidis et al. (2011), "On the stratification of multi-label data", for groups of cases: the rarest groups are
dealt out first, each to the fold that holds least of what the group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.splits import Splits, write_splits
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
    features = _features(strata)
    sums = [features[group].sum(axis=0) for group in groups]
    held = np.zeros((num_folds, features.shape[1]))
    sizes = np.zeros(num_folds, dtype=int)
    fold_of = np.zeros(len(strata), dtype=int)
    for number in sorted(range(len(groups)), key=lambda number: -float(sums[number] @ sums[number])):
        group, has = groups[number], sums[number]
        free = np.flatnonzero(sizes + len(group) <= len(strata) // num_folds)
        free = free if len(free) else np.flatnonzero(sizes == sizes.min())
        # Adding `has` changes the squared distance from an even share by 2 has @ held plus what is equal for all folds.
        fold = min(free.tolist(), key=lambda fold: (float(held[fold] @ has), int(sizes[fold])))
        held[fold] += has
        sizes[fold] += len(group)
        fold_of[group] = fold
    ids = np.array([stratum.case_id for stratum in strata])
    return [
        {"train": tuple(sorted(ids[fold_of != fold].tolist())), "val": tuple(sorted(ids[fold_of == fold].tolist()))}
        for fold in range(num_folds)
    ]


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
