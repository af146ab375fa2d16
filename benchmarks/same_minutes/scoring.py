"""Predictions of either detector to numbers, in the same boxes: LPS mm of the scans' files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.protocols import DETECTION
from medpretrain3d.inference import Prediction
from medpretrain3d.store.case import Case
from medpretrain3d.store.store import Store
from medpretrain3d.store.targets import targets_json


@dataclass(frozen=True)
class Score:
    """mAP at IoU 0.1 to 0.5, AP at IoU 0.5, and seconds of CPU time per scan."""

    map: float
    ap50: float
    seconds_per_scan: float


def score(predictions: Sequence[Prediction], store: Store) -> tuple[float, float]:
    """Return mAP and AP50 of predictions, each of a case of the store."""
    found = [PredictedCase(one.case, one.boxes_lps_mm, one.scores, one.labels) for one in predictions]
    wanted = [
        TargetCase(
            entry["case"],
            np.array(entry["boxes"], dtype=np.float64).reshape(-1, 6),
            np.array(entry["labels"], dtype=np.int64),
            np.array(entry["ignore"], dtype=np.float64) if "ignore" in entry else None,
        )
        for entry in targets_json(store, [one.case for one in predictions])["targets"]
    ]
    metrics = DETECTION.score(found, wanted, store.classes, num_bootstrap=0)
    # nan means that nothing was hit.
    mean_ap, ap50 = (float(np.nan_to_num(metrics[DETECTION.watched[name]])) for name in ("mAP", "AP50"))
    return mean_ap, ap50


def look_at(detect: Callable[[Case], Prediction], cases: Sequence[Case], store: Store) -> Score:
    """Detect in all cases and score what was found."""
    before = time.process_time()
    predictions = [detect(case) for case in cases]
    seconds = (time.process_time() - before) / len(cases)
    return Score(*score(predictions, store), seconds)
