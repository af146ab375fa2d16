"""The test of a run as dashboards show it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.scoring import CaseResult
from medpretrain3d.documents import csv_text
from medpretrain3d.engine.results_board import Chart, ResultsBoard, Table
from medpretrain3d.evaluation.detection import MAP_KEY, STRATA_IOUS, ap_key, ar_key, froc_curve_key
from medpretrain3d.evaluation.precision_recall import precision_key
from medpretrain3d.evaluation.protocols import PROTOCOLS
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.visualization.box_pictures import BoxSlice, box_slices

NUM_PICTURED = 8
"""Cases whose boxes a dashboard shows."""
OF_CLASS = {"mAP": MAP_KEY, "AP10": ap_key(0.1), "AP50": ap_key(0.5), "AR10": ar_key(0.1), "AR50": ar_key(0.5)}
OF_SIZE = {f"{name}{100 * iou:.0f}": f"{name}_IoU_{iou:.2f}" for iou in STRATA_IOUS for name in ("AP", "recall")}
OF_CENTER = {"AP_center": "AP"}
BOUNDS = ("", "_low", "_high")


def case_key(ref: CaseRef) -> str:
    """Return the name of a case on dashboards: the same in every run, and told by nobody without the scan itself."""
    return hashlib.sha256(f"dashboard {ref.voxels}".encode()).hexdigest()[:8]


def case_table(metrics: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """Return a row per test case, as `evaluate` scores it.

    Args:
        metrics: of the test.
        names: of the cases, by their ids.
    """
    columns = ("case", "num_targets", "num_hits", "num_predictions", "max_score", "score")
    rows = [[names[row["case"]], *(_cell(row[name]) for name in columns[1:])] for row in metrics["per_case"]]
    return Table(columns, rows)


def table_csv(tables: Sequence[Table]) -> str:
    """Return tables of the same length side by side, in which no name of a case or class is a formula."""
    columns = [name for table in tables for name in table.columns]
    rows = zip(*(table.rows for table in tables), strict=True)
    return csv_text(columns, ([cell for row in beside for cell in row] for beside in rows))


def board_of_test(
    metrics: Mapping[str, Any],
    classes: Sequence[str],
    names: Mapping[str, str],
    slices: Mapping[str, Sequence[BoxSlice]],
    pictures: Mapping[str, NDArray[np.uint8]],
) -> ResultsBoard:
    """Return numbers with intervals, over all and per class and size, tables, curves and pictures.

    Args:
        metrics: of the test.
        classes: names.
        names: of the cases on dashboards, by their ids.
        slices: of the pictured cases, by these names.
        pictures: of the same cases.
    """
    return ResultsBoard(
        summary=dict(_summary(metrics, classes)),
        tables={
            "cases": case_table(metrics, names),
            "classes": class_table(metrics, classes),
            "sizes": _size_table(metrics),
        },
        charts={"froc": _froc(metrics), **_precision_recall(metrics)},
        slices=slices,
        classes=classes,
        pictures=pictures,
    )


def class_table(metrics: Mapping[str, Any], classes: Sequence[str]) -> Table:
    """Return a row per class: objects, and its metrics with their intervals."""
    of_class = _of_class(metrics)
    columns = ("class", "num_targets", *(f"{name}{bound}" for name in of_class for bound in BOUNDS))
    rows = []
    for name in classes:
        cells = [cell for key in of_class.values() for cell in _estimate(metrics, f"{name}_{key}")]
        rows.append([name, metrics["num_targets"][name], *cells])
    return Table(columns, rows)


def pictured(
    results: Iterable[CaseResult], refs: Mapping[str, CaseRef], names: Mapping[str, str], window: Normalization
) -> dict[str, list[BoxSlice]]:
    """Return slices of the first cases, in voxels of the store.

    Args:
        results: in voxels.
        refs: of the cases by their ids.
        names: of the cases on dashboards, by their ids.
        window: of intensities.
    """
    found = {}
    for result in islice(results, NUM_PICTURED):
        case, target, predicted = refs[result.target.case].open(), result.target, result.predicted
        image = window.fitted_to(case)(case.read_image())[0]
        boxes = (target.boxes, target.labels, predicted.boxes, predicted.scores, predicted.labels)
        found[names[case.id]] = box_slices(image, *boxes)
    return found


def _size_table(metrics: Mapping[str, Any]) -> Table:
    columns = ("diameter", "num_targets", *(f"{name}{bound}" for name in OF_SIZE for bound in BOUNDS))
    rows = []
    for one in metrics.get("size_strata", ()):
        cells = [cell for key in OF_SIZE.values() for cell in _estimate(one, key)]
        rows.append([_diameter(one), one["num_targets"], *cells])
    return Table(columns, rows)


def _summary(metrics: Mapping[str, Any], classes: Sequence[str]) -> Iterable[tuple[str, float]]:
    of_all = PROTOCOLS[metrics.get("protocol", "detection")].tracked
    estimates = {name: _estimate(metrics, key) for name, key in of_all.items()}
    for one in classes:
        estimates |= {
            f"class/{one}/{name}": _estimate(metrics, f"{one}_{key}") for name, key in _of_class(metrics).items()
        }
    for stratum in metrics.get("size_strata", ()):
        place = f"size/{_diameter(stratum)}"
        estimates |= {f"{place}/{name}": _estimate(stratum, key) for name, key in OF_SIZE.items()}
    for name, values in estimates.items():
        for bound, value in zip(BOUNDS, values, strict=True):
            if value is not None:
                yield f"{name}{bound}", value


def _froc(metrics: Mapping[str, Any]) -> Chart:
    rates = metrics["false_positives_per_scan"]
    is_center = metrics.get("protocol") == "centre"
    keys = {"center": "FROC_curve"} if is_center else {f"IoU {iou:.1f}": froc_curve_key(iou) for iou in STRATA_IOUS}
    return Chart("FROC: sensitivity", "false positives per scan", _banded(metrics, rates, keys))


def _precision_recall(metrics: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the chart by its name, where overlaps were scored."""
    if "precision_recall" not in metrics:
        return {}
    found = metrics["precision_recall"]
    keys = {f"IoU {iou:.1f}": precision_key(iou) for iou in STRATA_IOUS}
    return {"precision_recall": Chart("Precision at recall", "recall", _banded(found, found["recall"], keys))}


def _of_class(metrics: Mapping[str, Any]) -> Mapping[str, str]:
    return OF_CENTER if metrics.get("protocol") == "centre" else OF_CLASS


def _banded(
    metrics: Mapping[str, Any], xs: Sequence[float], keys: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """Return a line for each key, and two more where it has an interval at every point."""
    lines = {}
    for name, key in keys.items():
        # nan means that nothing was hit; a curve shows it as 0.
        lines[name] = list(zip(xs, np.nan_to_num(metrics[key]).tolist(), strict=True))
        band = np.asarray(metrics["intervals"].get(key, np.full((len(xs), 2), np.nan)), np.float64)
        if not np.isnan(band).any():
            for place, bound in enumerate(("low", "high")):
                lines[f"{name}, {bound}"] = list(zip(xs, band[:, place].tolist(), strict=True))
    return lines


def _diameter(stratum: Mapping[str, Any]) -> str:
    upper = stratum["to_mm"]
    return f"{stratum['from_mm']:g} mm and over" if upper is None else f"{stratum['from_mm']:g} to {upper:g} mm"


def _estimate(values: Mapping[str, Any], key: str) -> tuple[float | None, float | None, float | None]:
    low, high = values["intervals"].get(key, (math.nan, math.nan))
    return _cell(values[key]), _cell(low), _cell(high)


def _cell(value: Any) -> Any:
    number = None if value is None else float(value)
    return None if number is None or not math.isfinite(number) else value if isinstance(value, int) else number
