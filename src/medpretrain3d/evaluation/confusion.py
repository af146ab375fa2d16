"""Confusion between classes: which class a detection has where an object of another is."""

from __future__ import annotations

from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.data_set import MatchedScans
from medpretrain3d.evaluation.matching import greedy_match, intersection_over_union, lies_in_any

CONFUSION_SCORE = 0.5
"""Detections of lower scores are nobody's answer."""
CONFUSION_IOU = 0.1


def confusion(scans: MatchedScans, score: float = CONFUSION_SCORE, iou: float = CONFUSION_IOU) -> dict[str, Any]:
    """Count the pairs of objects and detections by class, whatever class these say.

    In falling score each detection takes the object it overlaps most, of any class, that no better one holds; one in an
    ignore region that takes none does not count.

    Args:
        scans: matched; classes are left aside.
        score: least score of a detection.
        iou: least overlap of a pair.

    Returns:
        `score`, `iou`, and `matrix`: a row per class of the objects and one for no object, a column per class of the
        detections and one for none.

    Raises:
        UserError: a score outside [0, 1].
    """
    if not 0 <= score <= 1:
        raise UserError(f"confusion at score {score:g}: must lie in [0, 1]")
    nothing = len(scans.names)
    matrix = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    for found, wanted in zip(scans.predictions, scans.targets, strict=True):
        kept = np.nonzero(found.scores >= score)[0]
        kept = kept[np.argsort(-found.scores[kept], kind="stable")]
        boxes, held = found.boxes[kept], np.full(len(kept), -1)
        if len(kept) and len(wanted.labels):
            held = greedy_match(intersection_over_union(boxes, wanted.boxes), np.array([iou]))[0]
        counts = (held >= 0) | ~lies_in_any(boxes, wanted.ignore)
        is_of = np.append(wanted.labels, nothing)  # the last one is where `held` is -1
        np.add.at(matrix, (is_of[held[counts]], found.labels[kept][counts]), 1)
        missed = np.setdiff1d(np.arange(len(wanted.labels)), held)
        np.add.at(matrix, (wanted.labels[missed], nothing), 1)
    return {"score": score, "iou": iou, "matrix": matrix.tolist()}
