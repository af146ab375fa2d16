"""Metrics of each fold of a cross-validation, and their mean, beside those of all folds pooled.

Pooled, the detections of all folds compete in one ranking, so detectors whose scores mean different things lose; the
mean over folds does not ask for that, and is what nnDetection and nnU-Net report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.center_distance import Criterion
from medpretrain3d.evaluation.detection import MAP_KEY, Compat, ap_key, froc_score_key
from medpretrain3d.evaluation.protocols import protocol_of

COLUMNS = {"mAP .1:.5": MAP_KEY, "AP 0.1": ap_key(0.1), "AP 0.5": ap_key(0.5), "FROC .1": froc_score_key(0.1)}
CENTER_COLUMNS = {"AP center": "AP", "CPM": "FROC_score"}
"""Where hits are matters of distance."""


def fold_metrics(
    predictions: Sequence[PredictedCase],
    targets: Sequence[TargetCase],
    classes: Sequence[str],
    fold_of: Mapping[str, int],
    compat: Compat = "none",
    is_by_distance: bool = False,
    criterion: Criterion = "radius",
) -> dict[str, Any]:
    """Return the metrics of each fold alone and their mean and standard deviation over folds.

    Args:
        predictions: one entry per scan.
        targets: of the same scans in the same order.
        classes: name of each label.
        fold_of: the fold that held each case out.
        compat: of boxes, the program whose rules are followed, see `evaluate`.
        is_by_distance: whether boxes are scored by the distance of centers, as points are.
        criterion: of `center`, by which distance they hit then.

    Returns:
        `folds`, a row each (`fold`, `num_cases`, `num_targets` and the metrics by the keys of `evaluate`), `mean` and
        `std` (of a sample, nan for one fold) by the same keys. A metric that a fold does not have, as none of its
        scans holds an object or a hit, is nan in the fold, counts as 0 in the mean where there were objects, and is
        left out where there were none.

    Raises:
        UserError: a case that no fold held out.
    """
    strangers = [one.case for one in targets if one.case not in fold_of]
    if strangers:
        raise UserError(f"{len(strangers)} cases are held out by no fold, first '{strangers[0]}'; name their store")
    rows: list[dict[str, Any]] = []
    protocol = protocol_of(targets, is_by_distance)
    columns = COLUMNS if protocol.name == "detection" else CENTER_COLUMNS
    for fold in sorted({fold_of[one.case] for one in targets}):
        chosen = [number for number, one in enumerate(targets) if fold_of[one.case] == fold]
        wanted = [targets[number] for number in chosen]
        found = [predictions[number] for number in chosen]
        metrics = protocol.score(found, wanted, classes, num_bootstrap=0, compat=compat, criterion=criterion)
        num_targets = sum(len(one.labels) for one in wanted)
        keys = {key: float(metrics[key]) for key in columns.values()}
        rows.append({"fold": fold, "num_cases": len(chosen), "num_targets": num_targets, **keys})
    with_objects = [row for row in rows if row["num_targets"]]
    mean, std = {}, {}
    for key in columns.values():
        values = np.nan_to_num([row[key] for row in with_objects])
        mean[key] = float(values.mean()) if len(values) else float("nan")
        std[key] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return {"folds": rows, "mean": mean, "std": std}


def fold_table(result: Mapping[str, Any]) -> list[str]:
    """Return one line per fold, and the mean over folds with its standard deviation."""
    columns = {name: key for name, key in {**COLUMNS, **CENTER_COLUMNS}.items() if key in result["mean"]}
    lines = ["  ".join([f"{'fold':<8}{'scans':>6}{'objects':>8}", *(f"{name:>14}" for name in columns)])]
    for row in result["folds"]:
        head = f"{row['fold']:<8}{row['num_cases']:>6}{row['num_targets']:>8}"
        lines.append("  ".join([head, *(f"{row[key]:>14.3f}" for key in columns.values())]))
    values = [f"{result['mean'][key]:.3f} ± {result['std'][key]:.3f}" for key in columns.values()]
    lines.append("  ".join([f"{'mean ± std':<22}", *(f"{value:>14}" for value in values)]))
    return lines
