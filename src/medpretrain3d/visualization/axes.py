"""Axes of the plots of a page: an empty plot in their style, limits, scales and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medpretrain3d.visualization.style import PALE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Axis:
    """One axis: label, limits (from the data where None), places with a text (round numbers where None), scale."""

    label: str
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] | None = None
    is_log2: bool = False
    max_slack: float = 1.0
    """Free limits are moved out to the next tick, unless that leaves more than this share of the axis empty."""


@contextmanager
def empty_plot(width_pt: float, height_pt: float, grid: Literal["x", "y"]) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure and its only axes, in the style of all plots while it lasts.

    Args:
        width_pt: of the figure.
        height_pt: of the figure.
        grid: the axis at whose ticks there are lines.
    """
    import matplotlib.figure

    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(width_pt / 72, height_pt / 72))
        figure.patch.set_alpha(0)
        axes = figure.add_subplot(facecolor="none")
        axes.grid(axis=grid, color=PALE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        yield figure, axes


def set_axis(axis: Any, wanted: Axis, values: Sequence[float]) -> None:
    """Set limits, scale and ticks of one axis for values that are drawn along it."""
    from matplotlib.ticker import MaxNLocator

    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low = min(finite) if wanted.low is None else wanted.low
    high = max(finite) if wanted.high is None else wanted.high
    if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):  # one value, as far as a picture can tell
        half = 0.5 * abs(low) if abs(low) > 1e-9 else 0.5
        low, high = (low / 2, low * 2) if wanted.is_log2 else (low - half, low + half)
    axes = axis.axes
    is_x = axis is axes.xaxis
    set_limits, set_scale = (axes.set_xlim, axes.set_xscale) if is_x else (axes.set_ylim, axes.set_yscale)
    if wanted.is_log2:
        set_scale("log", base=2)
    if wanted.ticks is None:
        ticks = [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
        slack = wanted.max_slack * (high - low)
        if wanted.low is None and low - ticks[0] <= slack:
            low = min(low, ticks[0])
        if wanted.high is None and ticks[-1] - high <= slack:
            high = max(high, ticks[-1])
        ticks = [tick for tick in ticks if low - 1e-9 * (high - low) <= tick <= high + 1e-9 * (high - low)]
        axis.set_ticks(ticks, [_short(tick) for tick in ticks])
    else:
        axis.set_ticks([at for at, _ in wanted.ticks], [text for _, text in wanted.ticks])
    axis.set_ticks([], minor=True)
    set_limits(low, high)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 10):g}"
