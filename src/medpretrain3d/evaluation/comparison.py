"""Is the difference of two sets of predictions more than the choice of patients?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.evaluation.bootstrap import CONFIDENCE, INTERVAL_METHOD, NUM_BOOTSTRAP, check_resampling
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase, as_predicted_cases, as_target_cases
from medpretrain3d.evaluation.center_distance import Criterion, center_metrics, match_centers
from medpretrain3d.evaluation.data_set import MatchedScans, match_data_set
from medpretrain3d.evaluation.detection import (
    IOU_THRESHOLDS,
    MAP_KEY,
    ap_key,
    froc_score_key,
    mean_ar_key,
    metrics,
)
from medpretrain3d.evaluation.matching import MAX_DETECTIONS
from medpretrain3d.evaluation.protocols import CENTER, PROTOCOLS, ProtocolName, protocol_of
from medpretrain3d.evaluation.scan_frame import with_known_grids
from medpretrain3d.statistics import (
    AT_LIMIT,
    ONE_RUN_EACH,
    are_at_limit,
    effect_of,
    holm,
    pseudo_values,
    sign_flip_p,
)

COMPARED = (
    *(MAP_KEY, ap_key(0.1), ap_key(0.3), ap_key(0.5)),
    *(mean_ar_key(MAX_DETECTIONS), froc_score_key(0.1), froc_score_key(0.5)),
)
"""The metrics that a comparison by overlap reports."""
COMPARED_CENTERS = tuple(CENTER.watched.values())
"""Those that one by the distance of centers does."""


def compare(
    predictions_a: Sequence[PredictedCase | Detections],
    predictions_b: Sequence[PredictedCase | Detections],
    targets: Sequence[TargetCase | Targets],
    classes: Sequence[str],
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    protocol: ProtocolName | None = None,
    criterion: Criterion = "radius",
) -> dict[str, Any]:
    """Return the differences B - A with intervals over patients and the p of a paired sign-flip permutation.

    Both sets are scored without the same patient in turn, so that what makes a scan hard cancels. A FROC score without
    any hit counts as 0 here. Two files are one run each: this says nothing about the methods that trained them.

    Args:
        predictions_a: detections of each scan, the reference.
        predictions_b: detections of each scan, the challenger.
        targets: objects of each scan.
        classes: name of each label.
        num_bootstrap: sign flips behind p; up to 12 patients all are counted and p is exact.
        seed: of the sign flips.
        confidence: of the intervals.
        protocol: `detection`, by overlap, or `centre`, by the distance of centers in mm; None is `centre` where any
            object is a point, else `detection`.
        criterion: of a hit, see `center`; for `centre`.

    Returns:
        `differences`: per key of `COMPARED` (`centre`: `COMPARED_CENTERS`) a dict `a`, `b`, `difference` (b - a),
        `interval` (nan with fewer than 10 patients with objects, or where both are at a limit of the metric),
        `p_value`, and `p_corrected` for all of them together (Holm); `num_cases`, `num_patients`, `num_oblique_cases`,
        `notes`, `num_bootstrap`, `seed`, `confidence`, `interval_method`; with `centre` also `protocol` and
        `criterion`.

    Raises:
        UserError: as `evaluate` or `center`, or no replicates.
    """
    check_resampling(num_bootstrap, seed, confidence, at_least=1)
    found_a, found_b = as_predicted_cases(predictions_a, classes), as_predicted_cases(predictions_b, classes)
    wanted: Sequence[TargetCase | Targets] = targets
    if len(found_a) == len(found_b) == len(targets):
        wanted = with_known_grids(as_target_cases(targets, classes), found_a, found_b)
    is_by_center = (PROTOCOLS[protocol] if protocol else protocol_of(targets)) is CENTER
    if is_by_center:
        a, b = (match_centers(found, wanted, classes, criterion) for found in (found_a, found_b))
        scores = _scores(a, b, center_metrics, COMPARED_CENTERS)
    else:
        a, b = (match_data_set(found, wanted, classes, IOU_THRESHOLDS) for found in (found_a, found_b))
        scores = _scores(a, b, metrics, COMPARED)
    rows = {key: _row(of_a, of_b) for key, of_a, of_b in scores}
    p_values = {key: sign_flip_p(pseudo, num_bootstrap, seed) for key, (_, pseudo) in rows.items()}
    corrected = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    num_behind = a.pooled.num_patients_with_objects
    differences = {}
    at_limit = [key for key, *sides in scores if are_at_limit(*(pseudo_values(one[0], one[1:]) for one in sides))]
    for key, (row, pseudo) in rows.items():
        effect = replace(effect_of(key, pseudo[None]), of_patients=num_behind, is_at_limit=key in at_limit)
        interval = np.clip(effect.interval(confidence), -1, 1).tolist()
        differences[key] = {**row, "interval": interval, "p_value": p_values[key], "p_corrected": corrected[key]}
    return {
        **({"protocol": CENTER.name, "criterion": criterion} if is_by_center else {}),
        "differences": differences,
        "num_cases": a.num_scans,
        "num_patients": a.patients.num,
        "num_oblique_cases": a.num_oblique,
        "notes": [f"{name}: {note}" for name, one in (("A", a), ("B", b)) for note in one.notes]
        + ([f"no interval of {', '.join(at_limit)}: {AT_LIMIT}"] if at_limit else [])
        + [f"{ONE_RUN_EACH}; seeds and verdicts are the report's"],
        "num_bootstrap": num_bootstrap,
        "seed": seed,
        "confidence": confidence,
        "interval_method": INTERVAL_METHOD,
    }


def _scores(
    a: MatchedScans,
    b: MatchedScans,
    metrics: Callable[[MatchedScans, np.ndarray], Mapping[str, np.ndarray]],
    keys: Sequence[str],
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return each compared metric of both, on all scans and without each patient: (1 + G,)."""
    once, left_out = np.ones((1, a.num_scans)), a.patients.left_out()
    found = []
    for one in (a, b):
        whole = metrics(one, once)
        without = metrics(one, left_out) if a.patients.num > 1 else {key: np.full(1, np.nan) for key in keys}
        found.append({key: np.concatenate([whole[key], without[key]]) for key in keys})
    return [(key, found[0][key], found[1][key]) for key in keys]


def _row(of_a: np.ndarray, of_b: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Return the numbers of a metric, and the pseudo-values of its difference, (G,)."""
    difference = of_b - of_a
    row = {"a": float(of_a[0]), "b": float(of_b[0]), "difference": float(difference[0])}
    return row, pseudo_values(difference[0], difference[1:])
