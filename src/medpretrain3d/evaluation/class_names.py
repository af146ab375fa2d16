"""Classes of predictions and of data by their names, whatever order each has them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medpretrain3d.evaluation.files import PredictionFile


def of_classes(found: PredictionFile, names: Sequence[str]) -> tuple[PredictionFile, int]:
    """Return the predictions of some classes, by their numbers among these, and how many boxes are of others."""
    number = {label: list(names).index(name) for label, name in enumerate(found.classes) if name in names}
    cases, num_others = [], 0
    for case in found.cases:
        keep = np.array([int(label) in number for label in case.labels], dtype=bool)
        num_others += int((~keep).sum())
        labels = np.array([number[int(label)] for label in case.labels[keep]], dtype=np.int64)
        boxes_vox = None if case.boxes_vox is None else case.boxes_vox[keep]
        kept = replace(case, boxes=case.boxes[keep], scores=case.scores[keep], labels=labels, boxes_vox=boxes_vox)
        cases.append(kept)
    return replace(found, classes=tuple(names), cases=tuple(cases)), num_others
