"""The plots of a report: learning curves, FROC, and what labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from medpretrain3d.evaluation.froc import FALSE_POSITIVES_PER_SCAN
from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.study.run import FROC_CURVE, Run
from medpretrain3d.study.table import Estimate
from medpretrain3d.visualization.line_plot import Axis, Series, line_plot

FALSE_POSITIVE_TICKS = [(rate, str(Fraction(rate))) for rate in FALSE_POSITIVES_PER_SCAN]
MAX_POINTS = 160
MAX_BANDS = 4  # more bands on top of each other hide the lines


@dataclass(frozen=True)
class Figure:
    """A plot, its heading, and name and arm of its lines."""

    title: str
    svg: str
    legend: tuple[tuple[str, int], ...]


def _figure(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Figure:
    return Figure(title, line_plot(series, x, y), tuple(dict.fromkeys((one.name, one.arm) for one in series)))


def curve_figure(title: str, runs: Sequence[Run], colors: Mapping[Run, int], column: str, label: str) -> Figure | None:
    """Return one column of `metrics.csv` by step, a line per run; None where no run has it."""
    series = []
    for run in runs:
        if column in run.curves:
            curve = run.curves[column].binned(MAX_POINTS)
            series.append(Series(run.name, colors[run], curve.steps, curve.values, has_dots=len(curve) <= 25))
    if not series:
        return None
    is_share = column.startswith("val/") and "AP" in column
    y = Axis(label, low=0.0) if is_share else Axis(label)
    return _figure(title, series, Axis("optimiser steps", low=0.0, max_slack=0.05), y)


def froc_figure(title: str, runs: Sequence[Run], colors: Mapping[Run, int]) -> Figure | None:
    """Sensitivity by false positives per scan, None where no run was tested; intervals are bands, in small groups."""
    series = []
    for run in runs:
        sensitivity = run.metrics.get(FROC_CURVE)
        if sensitivity and len(sensitivity) == len(FALSE_POSITIVES_PER_SCAN):
            interval = run.interval(FROC_CURVE) or []
            low, high = zip(*map(_finite_pair, interval), strict=True) if interval else (None, None)
            series.append(
                Series(
                    run.name,
                    colors[run],
                    FALSE_POSITIVES_PER_SCAN,
                    [_or_nan(value) for value in sensitivity],
                    low,
                    high,
                )
            )
    if not series:
        return None
    if len(series) > MAX_BANDS:
        series = [replace(one, low=None, high=None) for one in series]
    x = Axis("false positives per scan", 1 / 8, 8, FALSE_POSITIVE_TICKS, is_log2=True)
    return _figure(title, series, x, Axis("sensitivity", 0.0, 1.0))


def label_figure(
    title: str,
    runs: Sequence[Run],
    arms: Mapping[Run, str],
    colors: Mapping[Run, int],
    metric: NamedMetric,
    estimates: Mapping[Run, Estimate],
) -> Figure | None:
    """A metric by number of labelled cases: a line through the mean of each arm, every run a dot with its interval.

    None where all runs have the same number of labels.
    """
    tested = [run for run in runs if run.is_tested and run.setting[1] > 0 and estimates[run].is_known]
    counts = sorted({run.setting[1] for run in tested})
    if len(counts) < 2:
        return None
    series = []
    names = list(dict.fromkeys(arms[run] for run in tested))
    for place, name in enumerate(names):
        members = [run for run in tested if arms[run] == name]
        # Bars of different arms stand beside each other, a hundredth of the axis apart.
        shift = (counts[-1] / counts[0]) ** (0.012 * (place - (len(names) - 1) / 2))
        seen = sorted({run.setting[1] for run in members})
        means = [_mean([_or_nan(estimates[run].value) for run in members if run.setting[1] == n]) for n in seen]
        color = colors[members[0]]
        series.append(Series(name, color, [n * shift for n in seen], means))
        mine = [estimates[run] for run in members]
        series.append(
            Series(
                name,
                color,
                [run.setting[1] * shift for run in members],
                [_or_nan(one.value) for one in mine],
                [_or_nan(one.low) for one in mine],
                [_or_nan(one.high) for one in mine],
                has_line=False,
                has_dots=True,
            )
        )
    x = Axis(
        "labelled training cases", counts[0] / 1.15, counts[-1] * 1.15, [(n, str(n)) for n in counts], is_log2=True
    )
    return _figure(title, series, x, Axis(metric.name, low=0.0))


def _finite_pair(pair: Sequence[float | None] | None) -> tuple[float, float]:
    low, high = pair or (None, None)
    return _or_nan(low), _or_nan(high)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
