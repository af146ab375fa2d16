"""A dot per thing that is counted, a row per kind: how values are spread without bins to choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from medpretrain3d.visualization.axes import Axis, empty_plot, set_axis
from medpretrain3d.visualization.style import (
    ARM_COLORS,
    INK,
    MARGIN_BELOW_PT,
    MARGIN_PT,
    inline_svg,
    set_margins,
    text_width,
)

ROW_PT = 30
MAX_DOTS = 400
"""Of a row; of more, evenly chosen quantiles are drawn, so that a page of 100,000 objects stays small."""
MAX_LABEL = 26
MM_TICKS = tuple(float(step * 10**power) for power in range(-2, 4) for step in (1, 2, 5))


@dataclass(frozen=True)
class StripRow:
    """One row: its label, its values, and the place of a mark such as what was chosen, if there is one."""

    label: str
    values: Sequence[float]
    mark: float | None = None


def strip_plot(rows: Sequence[StripRow], x: Axis, width: int = 420) -> str:
    """Return an `<svg>` element: dots, a bar at their median, and a ring at each mark.

    Args:
        rows: from top to bottom; those without values are left out.
        x: the axis of the values.
        width: of the picture in points.
    """
    rows = [row for row in rows if len(row.values)]
    with empty_plot(width, ROW_PT * len(rows) + MARGIN_BELOW_PT + MARGIN_PT, "x") as (figure, axes):
        axes.set(xlabel=x.label)
        set_axis(axes.xaxis, x, [value for row in rows for value in (*row.values, row.mark) if value is not None])
        color: Any = ARM_COLORS[1]
        for place, row in enumerate(rows):
            values = _quantiles(row.values)
            # The same values are drawn at the same places: no generator, but a sequence that never clusters.
            offset = 0.5 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
            axes.plot(values, place + offset, "o", color=color, markersize=3.2, markeredgewidth=0, alpha=0.45)
            middle = float(np.median(row.values))
            axes.plot([middle, middle], [place - 0.36, place + 0.36], color=INK, linewidth=1.6)
            if row.mark is not None:
                mark: Any = ARM_COLORS[2]
                axes.plot([row.mark], [place], "D", color=mark, markerfacecolor="none", markersize=7, clip_on=False)
        labels = [_short(row.label) for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        set_margins(figure, 10 + text_width(labels), MARGIN_BELOW_PT)
        svg = inline_svg(figure, escape(f"{x.label}: {', '.join(row.label for row in rows)}", quote=True))
    return svg


def mm_axis(label: str, values: Sequence[float]) -> Axis:
    """Return a logarithmic axis of millimetres with round numbers around some positive values."""
    finite = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low = max((tick for tick in MM_TICKS if tick <= min(finite)), default=MM_TICKS[0])
    high = min((tick for tick in MM_TICKS if tick >= max(finite)), default=MM_TICKS[-1])
    if low == high:
        low, high = low / 2, high * 2
    ticks = [(tick, f"{tick:g}") for tick in MM_TICKS if low <= tick <= high]
    return Axis(label, low, high, ticks if len(ticks) > 1 else [(low, f"{low:g}"), (high, f"{high:g}")], is_log2=True)


def _quantiles(values: Sequence[float]) -> np.ndarray:
    found = np.sort(np.asarray(values, dtype=np.float64))
    if len(found) <= MAX_DOTS:
        return found
    return np.quantile(found, np.linspace(0, 1, MAX_DOTS))


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 3] + "..."
