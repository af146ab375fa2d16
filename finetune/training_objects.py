"""Objects of the training cases: whether there are any to learn from, and what the crops make of long ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medpretrain3d.boxes import box_size
from medpretrain3d.errors import UserError
from medpretrain3d.planning import LongObjects
from medpretrain3d.store.class_counts import count_objects, missing_objects
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.store import Store


def training_object_notes(
    store: Store, splits: Mapping[str, Sequence[str]], cases: Sequence[CaseRef], patch: tuple[int, int, int]
) -> list[str]:
    """Return a sentence about each class that is not learnt or not measured, and about objects longer than a crop.

    Args:
        store: what the cases are of.
        splits: ids of the cases of each split, all training cases among them.
        cases: those that are trained on.
        patch: crop (D, H, W) in voxels.

    Raises:
        UserError: no case that is trained on holds an object.
    """
    train = [ref.case_id for ref in cases]
    if not count_objects(store, train).sum():
        raise UserError(
            f"{store.place}: none of the {len(train)} training cases holds an object, so nothing can be "
            "learnt; look at what `medpretrain3d prepare` said, or choose another fold or more cases"
        )
    notes = [f"warning: {store.place}: {doubt}" for doubt in missing_objects(store, {**splits, "train": train})]
    with_objects = [ref.open() for ref in cases if sum(ref.counts)]
    boxes = np.concatenate([case.boxes for case in with_objects]).astype(np.float64)
    labels = np.concatenate([case.labels for case in with_objects])
    scans_vox = np.repeat(
        [case.grid.shape for case in with_objects], [len(case.labels) for case in with_objects], axis=0
    )
    if long := LongObjects(box_size(boxes), labels, store.classes, patch, scans_vox).note():
        notes.append(f"note: {store.place}: {long}")
    return notes
