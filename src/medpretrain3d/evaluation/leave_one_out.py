"""mAP and AP50 of a test set, as they are and without each scan: what the statistics of a study are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medpretrain3d.evaluation.average_precision import average_precision
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.detection import MAP_IOUS, MAP_KEY, ap_key
from medpretrain3d.statistics import leave_one_out_weights


def map_without_each(
    predictions: Sequence[PredictedCase], targets: Sequence[TargetCase], classes: Sequence[str]
) -> dict[str, tuple[float, np.ndarray]]:
    """Return `MAP_KEY` and AP at IoU 0.5 on all scans, and without each group of scans, (G,); nan where undefined.

    Raises:
        UserError: as `evaluate`.
    """
    scans = match_data_set(predictions, targets, classes, MAP_IOUS)
    whole = _over_classes(np.stack([average_precision(one, np.ones((1, scans.num_scans))) for one in scans.classes]))
    left_out = leave_one_out_weights(scans.num_scans)
    without = _over_classes(np.stack([average_precision(one, left_out) for one in scans.classes]))
    return {
        MAP_KEY: (float(whole[0].mean()), without.mean(axis=1)),
        ap_key(0.5): (float(whole[0, -1]), without[:, -1]),
    }


def _over_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean of (K, R, T) over the classes that are there, (R, T)."""
    number = (~np.isnan(values)).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.where(number > 0, number, np.nan))
