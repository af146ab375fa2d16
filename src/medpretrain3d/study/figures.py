"""The plots of a report: differences of arms, worth of labels, FROC, precision, sizes, errors, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from medpretrain3d.evaluation.error_analysis import ERRORS
from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN
from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.evaluation.precision_recall import precision_key
from medpretrain3d.statistics import Verdict
from medpretrain3d.study.conditions import Condition, Place, base_arm, detector_of, range_of
from medpretrain3d.study.curves import Curve
from medpretrain3d.study.design import StepBudget
from medpretrain3d.study.differences import Difference
from medpretrain3d.study.run import FROC_CURVE, Run
from medpretrain3d.study.table import Estimate
from medpretrain3d.visualization.axes import Axis
from medpretrain3d.visualization.dot_plot import Dot, DotRow, dot_plot
from medpretrain3d.visualization.line_plot import Series, line_plot

FALSE_POSITIVE_TICKS = [(rate, str(Fraction(rate))) for rate in FALSE_POSITIVES_PER_SCAN]
MAX_POINTS = 120
MAX_BANDS = 5
"""More bands on top of each other hide the lines."""
MAX_LINES = 8
"""More lines of single runs are told apart by nobody: then there is one of each arm."""
IOUS = (0.1, 0.5)


@dataclass(frozen=True)
class Figure:
    """A plot, its heading, and name and arm of its lines."""

    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a page filters by."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points."""
        width, height = self.svg.partition('viewBox="')[2].partition('"')[0].split()[2:]
        return float(width), float(height)


def forest_figure(
    differences: Sequence[Difference], colors: Mapping[Run, int], metric: NamedMetric, title: str
) -> Figure | None:
    """Difference of each arm from the baseline at the declared budget: a row per data set and detector, or None."""
    primary = [one for one in differences if one.is_primary]
    if not primary:
        return None
    has_detectors = len({detector_of(one.runs[0]) for one in primary}) > 1
    rows: dict[str, list[Dot]] = {}
    legend: dict[tuple[str, int], None] = {}
    for one in sorted(primary, key=lambda one: (one.setting[0], detector_of(one.runs[0]), colors[one.runs[0]])):
        detector, arm = detector_of(one.runs[0]), colors[one.runs[0]]
        name = base_arm(one.arm, detector)
        fold = [] if one.fold is None else [f"fold {one.fold}"]
        label = "\n".join([one.setting[0], *([detector] if has_detectors else []), *fold])
        tip = f"{name}: {one.estimate}, {one.judged.verdict}"
        is_open = one.judged.verdict in (Verdict.INCONCLUSIVE, Verdict.NONE)
        rows.setdefault(label, []).append(_dot(arm, one.estimate, tip, is_open))
        legend[name, arm] = None
    x = Axis(f"difference of {metric} from {primary[0].baseline_scores.name}")
    drawn = dot_plot([DotRow(label, dots) for label, dots in rows.items()], x, zero="no difference", width=420)
    return Figure(title, drawn, tuple(legend))


def label_figure(conditions: Sequence[Condition], metric: NamedMetric) -> Figure | None:
    """A metric by number of labeled cases on one data set with one detector; None where all have the same number."""
    counts = sorted({one.num_labels for one in conditions})
    if len(conditions) < 2 or len({one.place for one in conditions}) < 2 or counts[0] <= 0:
        return None
    points = [((one.arm, one.color), one.num_labels, one) for one in conditions]
    place = conditions[0].place
    return _budget_figure(
        f"{place.network}: {metric} by labels", points, "labelled training cases", metric, _network_facts(place)
    )


def step_figure(conditions: Sequence[Condition], metric: NamedMetric) -> Figure | None:
    """A metric by share of the steps, at one budget of labels on one data set with one detector; None of one share.

    An arm with steps of its own is a point of the one that it is like otherwise.
    """
    colors = {one.arm: one.color for one in conditions}
    points = []
    for one in conditions:
        budget = one.runs[0].step_budget or StepBudget(one.arm)
        arm = budget.arm if budget.arm in colors else one.arm
        points.append(((arm, colors[arm]), budget.share, one))
    if len({share for _, share, _ in points}) < 2:
        return None
    place = conditions[0].place
    facts = _network_facts(place) | {"labels": place.labels}
    title = f"{place.network}, {place.labels} labels: {metric} by steps"
    return _budget_figure(title, points, "share of the optimiser steps", metric, facts)


def _budget_figure(
    title: str,
    points: Sequence[tuple[tuple[str, int], float, Condition]],
    label: str,
    metric: NamedMetric,
    facts: Mapping[str, str],
) -> Figure:
    """Draw a line per arm over a budget of some kind; a point is arm and color, budget, condition."""
    by_arm: dict[tuple[str, int], list[tuple[float, Estimate]]] = {}
    for arm, budget, one in points:
        if one.estimate.is_known:
            by_arm.setdefault(arm, []).append((budget, one.estimate))
    series = []
    for (name, color), members in by_arm.items():
        members.sort(key=lambda one: one[0])
        budgets, values = [budget for budget, _ in members], [_or_nan(one.value) for _, one in members]
        low, high = ([_or_nan(getattr(one, side)) for _, one in members] for side in ("low", "high"))
        series.append(Series(name, color, budgets, values, low, high))
        series.append(Series(name, color, budgets, values, has_line=False, has_dots=True))
    known = sorted({budget for _, budget, _ in points})
    ticks = [(budget, f"{budget:.3g}" if budget < 1 else f"{budget:.0f}") for budget in known]
    x = Axis(label, known[0] / 1.1, known[-1] * 1.1, ticks, is_log2=True)
    return _figure(title, _few_bands(series), x, Axis(metric.name, low=0.0), facts)


def froc_figure(conditions: Sequence[Condition]) -> Figure | None:
    """Sensitivity by false positives per scan in one place, None where no run has it."""
    x = Axis("false positives per scan", 1 / 8, 8, FALSE_POSITIVE_TICKS, is_log2=True)

    def curve(run: Run) -> tuple[Any, Any]:
        return run.metrics.get(FROC_CURVE), run.interval(FROC_CURVE)

    return _mean_curves("FROC", conditions, FALSE_POSITIVES_PER_SCAN, curve, x, "sensitivity")


def precision_figure(conditions: Sequence[Condition], iou: float) -> Figure | None:
    """Precision by recall at one IoU in one place, None where no run has it."""

    def curve(run: Run) -> tuple[Any, Any]:
        return run.precision(precision_key(iou))

    recall = next((run.recall_levels for one in conditions for run in one.runs if run.recall_levels), [])
    name = f"precision at IoU {iou:.1f}"
    return _mean_curves(name, conditions, recall, curve, Axis("recall", 0.0, 1.0), name)


def error_figure(conditions: Sequence[Condition]) -> Figure | None:
    """What AP at IoU 0.5 gains without each kind of error, in one place; None where no run has it."""
    rows = []
    for kind in (ERRORS[-1], *ERRORS[:-1]):
        dots = []
        for one in conditions:
            gains = [run.gain_without(kind) for run in one.runs]
            dots.append(_dot(one.color, gain := range_of(gains), f"{one.arm}: {gain}"))
        rows.append(DotRow(kind, [dot for dot in dots if np.isfinite(dot.value)]))
    return _dots("errors", conditions, rows, Axis("gain of AP at IoU 0.5", low=0.0))


def size_figure(conditions: Sequence[Condition]) -> Figure | None:
    """Recall at IoU 0.1 by diameter of the objects, in one place; None where no run has it."""
    strata: dict[str, list[Dot]] = {}
    for one in conditions:
        for name, values in size_recalls(one.runs).items():
            found = range_of(values)
            if found.is_known:
                strata.setdefault(name, []).append(_dot(one.color, found, f"{one.arm}: {found}"))
    rows = [DotRow(name, dots) for name, dots in strata.items()]
    return _dots("recall by size", conditions, rows, Axis("recall at IoU 0.1", 0.0, 1.0))


def size_recalls(runs: Sequence[Run], key: str = "recall_IoU_0.10") -> dict[str, list[float | None]]:
    """Return a number of each size stratum with objects, by its bounds in words, one of each run."""
    found: dict[str, list[float | None]] = {}
    for run in runs:
        for stratum in run.metrics.get("size_strata", []):
            if stratum["num_targets"]:
                upper = stratum["to_mm"]
                name = f"{stratum['from_mm']:g} mm on" if upper is None else f"{stratum['from_mm']:g}-{upper:g} mm"
                found.setdefault(name, []).append(stratum[key])
    return found


def curve_figure(
    title: str,
    runs: Sequence[Run],
    names: Mapping[Run, str],
    colors: Mapping[Run, int],
    column: str,
    label: str,
    facts: Mapping[str, str] | None = None,
) -> Figure | None:
    """One column of `metrics.csv` by step: a line per run, or the mean of each name with a band from lowest to highest.

    None where no run has it.
    """
    curves = {run: run.curves[column].binned(MAX_POINTS) for run in runs if column in run.curves}
    by_name: dict[tuple[str, int], list[Curve]] = {}
    is_each = len(curves) <= MAX_LINES
    for run, curve in curves.items():
        by_name.setdefault((run.name if is_each else names[run], colors[run]), []).append(curve)
    if not by_name:
        return None
    series = [_joined(name, color, members) for (name, color), members in by_name.items()]
    is_share = column.startswith("val/") and "AP" in column
    y = Axis(label, low=0.0) if is_share else Axis(label)
    return _figure(title, _few_bands(series), Axis("optimiser steps", low=0.0, max_slack=0.05), y, facts or {})


def _joined(name: str, color: int, curves: Sequence[Curve]) -> Series:
    if len(curves) == 1:
        (only,) = curves
        return Series(name, color, only.steps, only.values, has_dots=len(only) <= 25)
    steps = np.linspace(max(one.steps[0] for one in curves), min(one.steps[-1] for one in curves), MAX_POINTS)
    values = np.stack([np.interp(steps, one.steps, one.values) for one in curves])
    return Series(name, color, *(part.tolist() for part in (steps, values.mean(0), values.min(0), values.max(0))))


def _mean_curves(
    title: str,
    conditions: Sequence[Condition],
    at: Sequence[float],
    curve: Callable[[Run], tuple[Any, Any]],
    x: Axis,
    label: str,
) -> Figure | None:
    """Return the mean of each condition's curves; bands go from lowest to highest, of one run they are its interval."""
    series = []
    for one in conditions:
        pairs = [curve(run) for run in one.runs]
        found = [pair for pair in pairs if isinstance(pair[0], list) and len(pair[0]) == len(at) > 0]
        if not found:
            continue
        values = np.array([[_or_nan(point) for point in value] for value, _ in found])
        if not np.isfinite(values).any():
            continue
        mean, low, high = (part(values, axis=0).tolist() for part in (np.mean, np.min, np.max))
        if len(found) == 1:
            interval = found[0][1] or [(None, None)] * len(at)
            low, high = ([_or_nan((pair or (None, None))[side]) for pair in interval] for side in (0, 1))
        series.append(Series(one.arm, one.color, at, mean, low, high))
    if not series:
        return None
    place = conditions[0].place
    return _figure(f"{place}: {title}", _few_bands(series), x, Axis(label, 0.0, 1.0), place.facts)


def _dots(title: str, conditions: Sequence[Condition], rows: Sequence[DotRow], x: Axis) -> Figure | None:
    if not any(row.dots for row in rows):
        return None
    place = conditions[0].place
    legend = tuple((one.arm, one.color) for one in conditions)
    return Figure(f"{place}: {title}", dot_plot(rows, x), legend, place.facts)


def _dot(color: int, estimate: Estimate, tip: str, is_open: bool = False) -> Dot:
    return Dot(color, _or_nan(estimate.value), _or_nan(estimate.low), _or_nan(estimate.high), tip, is_open)


def _figure(title: str, series: Sequence[Series], x: Axis, y: Axis, facts: Mapping[str, str]) -> Figure:
    legend = tuple(dict.fromkeys((one.name, one.arm) for one in series))
    return Figure(title, line_plot(series, x, y), legend, facts)


def _few_bands(series: Sequence[Series]) -> list[Series]:
    if len({one.name for one in series}) <= MAX_BANDS:
        return list(series)
    return [one if one.has_dots else replace(one, low=None, high=None) for one in series]


def _network_facts(place: Place) -> dict[str, str]:
    return {"data": place.data, "detector": place.detector}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
