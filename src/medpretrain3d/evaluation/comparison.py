"""Is the difference of two sets of predictions more than the choice of scans?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation.bootstrap import (
    CONFIDENCE,
    NUM_BOOTSTRAP,
    check_resampling,
    percentile_interval,
    replicates,
    two_sided_p,
)
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase, as_predicted_cases, as_target_cases
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.detection import (
    IOU_THRESHOLDS,
    MAP_KEY,
    ap_key,
    froc_score_key,
    mean_ar_key,
    metrics,
)
from medpretrain3d.evaluation.matching import MAX_DETECTIONS
from medpretrain3d.evaluation.scan_frame import with_known_grids

COMPARED = (
    *(MAP_KEY, ap_key(0.1), ap_key(0.3), ap_key(0.5)),
    *(mean_ar_key(MAX_DETECTIONS), froc_score_key(0.1), froc_score_key(0.5)),
)
"""The metrics a comparison reports."""


def compare(
    predictions_a: Sequence[PredictedCase | Detections],
    predictions_b: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Return paired bootstrap over scans of the differences B - A.

    Both sets are scored on the same resampled scans, so that what makes a scan hard cancels. A FROC score without any
    hit counts as 0 here.

    Args:
        predictions_a: detections of each scan, the reference.
        predictions_b: detections of each scan, the challenger.
        targets: objects of each scan.
        classes: name of each label.
        num_bootstrap: replicates.
        seed: of the resampling.
        confidence: of the intervals.

    Returns:
        `differences`: per key of `COMPARED` a dict `a`, `b`, `difference` (b - a), `interval`, `p_value` (see
        `two_sided_p`); and `num_cases`, `num_oblique_cases`, `notes`, `num_bootstrap`, `seed`, `confidence`.

    Raises:
        UserError: as `evaluate`, or no replicates.
    """
    check_resampling(num_bootstrap, seed, confidence, at_least=1)
    found_a, found_b = as_predicted_cases(predictions_a, classes), as_predicted_cases(predictions_b, classes)
    wanted: Sequence[TargetCase | Targets] = targets
    if len(found_a) == len(found_b) == len(targets):
        wanted = with_known_grids(as_target_cases(targets, classes), found_a, found_b)
    a = match_data_set(found_a, wanted, classes, IOU_THRESHOLDS)
    b = match_data_set(found_b, wanted, classes, IOU_THRESHOLDS)
    once = np.ones((1, a.num_scans))
    value_a, value_b = metrics(a, once), metrics(b, once)
    resampled_a = replicates(partial(metrics, a), a.num_scans, num_bootstrap, seed)
    resampled_b = replicates(partial(metrics, b), b.num_scans, num_bootstrap, seed)
    differences = {}
    for key in COMPARED:
        resampled = resampled_b[key] - resampled_a[key]
        differences[key] = {
            "a": float(value_a[key][0]),
            "b": float(value_b[key][0]),
            "difference": float(value_b[key][0] - value_a[key][0]),
            "interval": percentile_interval(resampled[:, None], confidence)[:, 0].tolist(),
            "p_value": two_sided_p(resampled),
        }
    return {
        "differences": differences,
        "num_cases": a.num_scans,
        "num_oblique_cases": a.num_oblique,
        "notes": [f"{name}: {note}" for name, one in (("A", a), ("B", b)) for note in one.notes],
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        "confidence": confidence,
    }
