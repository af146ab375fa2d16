"""Precision by recall, the curve whose mean height is the average precision."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from medpretrain3d.evaluation.average_precision import RECALL_LEVELS, precision_at_recall
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.data_set import MatchedScans

SHOWN_LEVELS = slice(None, None, 5)
"""Every fifth of the 101 levels of recall: 0, 0.05, ... 1."""


def precision_key(iou: float) -> str:
    """Return the key of the curve at one IoU."""
    return f"precision_IoU_{iou:.2f}"


def precision_recall(scans: MatchedScans, resampling: Resampling, rows: dict[float, int]) -> dict[str, Any]:
    """Return the best precision at each recall or beyond, mean over the classes with objects (Lin et al., 2014).

    Args:
        scans: matched.
        resampling: of the intervals.
        rows: the threshold's row by the IoU it is reported as.

    Returns:
        `recall` (21,), per IoU `precision_IoU_x` (21,), and `intervals` of these; nan without objects.
    """

    def metrics(weights: np.ndarray) -> dict[str, np.ndarray]:
        chosen = [one.rows([*rows.values()]) for one in scans.classes]
        curves = np.stack([precision_at_recall(one, weights)[..., SHOWN_LEVELS] for one in chosen])  # (K, R, T, 21)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no class has objects: nan, as it should be
            mean = np.nanmean(curves, axis=0)
        return {precision_key(iou): mean[:, place] for place, iou in enumerate(rows)}

    num_behind = dict.fromkeys(map(precision_key, rows), scans.pooled.num_patients_with_objects)
    values, intervals = resampling.estimate(metrics, scans.patients, num_behind)
    return {"recall": RECALL_LEVELS[SHOWN_LEVELS].round(2).tolist(), **values, "intervals": intervals}
