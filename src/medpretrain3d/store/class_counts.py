"""Class counts of the objects in the cases of a split, and what is missing there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medpretrain3d.store.store import Store

HELD_OUT = ("val", "test")


def count_objects(store: Store, case_ids: Sequence[str]) -> np.ndarray:
    """Return objects of each class (K,) int64 in some cases of a store, from its index."""
    counts = [store.entries[case_id]["counts"] for case_id in case_ids]
    result: np.ndarray = np.array(counts, dtype=np.int64).reshape(-1, len(store.classes)).sum(axis=0)
    return result


def missing_objects(store: Store, cases_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence about each class that cannot be learnt or cannot be measured, and about all objects missing.

    Args:
        store: a labelled store.
        cases_of: ids of the cases of `train`, `val` and `test`; a set without training cases is for testing alone.
    """
    if not cases_of.get("train"):
        return []
    counts = {split: count_objects(store, ids) for split, ids in cases_of.items() if split in ("train", *HELD_OUT)}
    train = counts["train"]
    if not train.sum():
        return [f"none of the {len(cases_of['train'])} training cases holds an object"]
    message = []
    for label, name in enumerate(store.classes):
        held_out = [split for split in HELD_OUT if split in counts and counts[split][label]]
        if not train[label]:
            where = f"; there are some in {' and '.join(held_out)}" if held_out else " and none elsewhere"
            message.append(f"class '{name}' has no object in training{where}")
    return message
