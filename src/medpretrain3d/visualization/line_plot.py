"""Line plots for a page: lines with bands, dots with bars, axes with round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from medpretrain3d.visualization.style import (
    ARM_COLORS,
    LETTER_HEIGHT_PT,
    LINE_STYLES,
    MARGIN_BELOW_PT,
    PALE,
    STYLE,
    arm_tag,
    inline_svg,
    set_margins,
    text_width,
    with_arms_and_tips,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 360, 225
"""In points."""


@dataclass(frozen=True)
class Series:
    """One line: its name, its arm and its points, with an interval at each where `low` and `high` are given."""

    name: str
    arm: int
    """Place of its color among those of the arms."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    has_line: bool = True
    has_dots: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """Color and dashes."""
        style = LINE_STYLES[self.arm // len(ARM_COLORS) % len(LINE_STYLES)]
        return {"color": ARM_COLORS[self.arm % len(ARM_COLORS)], "linestyle": style if self.has_line else "none"}


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


def line_plot(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Return an `<svg>` element; intervals are a band along a line, and bars on dots, which show their value."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        figure.patch.set_alpha(0)
        axes = figure.add_subplot(facecolor="none")
        axes.grid(axis="y", color=PALE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=x.label, ylabel=y.label)
        set_axis(axes.xaxis, x, [value for one in series for value in one.x])
        set_axis(
            axes.yaxis, y, [value for one in series for part in (one.y, one.low, one.high) for value in part or ()]
        )
        labels = [label.get_text() for label in axes.get_yticklabels()]
        set_margins(figure, LETTER_HEIGHT_PT + 12 + text_width(labels), MARGIN_BELOW_PT)
        tips = [tip for one in series for tip in _draw(axes, one)]
        names = ", ".join(dict.fromkeys(one.name for one in series))
        svg = inline_svg(figure, escape(f"{y.label} by {x.label}: {names}", quote=True))
    return with_arms_and_tips(svg, tips)


def _draw(axes: Axes, one: Series) -> Iterator[str]:
    """Draw a series; returns what its dots say."""
    points = [p for p in zip(one.x, one.y, strict=True) if all(map(math.isfinite, p))]
    has_dots = one.has_dots or len(points) == 1
    intervals = [p for p in zip(one.x, one.low or (), one.high or (), strict=False) if all(map(math.isfinite, p))]
    color, tag = one.style["color"], arm_tag(one.arm)
    if intervals and not one.has_dots:
        places, lows, highs = (list(column) for column in zip(*intervals, strict=True))
        axes.fill_between(places, lows, highs, color=color, alpha=0.15, linewidth=0, gid=tag)
    if one.has_line and len(points) > 1:
        axes.plot(*zip(*points, strict=True), **one.style, linewidth=1.8, solid_joinstyle="round", gid=tag)
    if has_dots:
        for at, low, high in intervals:
            axes.plot([at, at], [low, high], color=color, linewidth=1.2, alpha=0.75, marker="_", markersize=6, gid=tag)
        for at, value in points:
            tipped = arm_tag(one.arm, has_tip=True)
            axes.plot([at], [value], "o", color=color, markersize=5, markeredgewidth=0, gid=tipped, clip_on=False)
            yield f"{one.name}: {value:.3f}"


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
