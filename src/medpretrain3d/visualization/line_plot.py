"""Line plots for a page: lines with bands, dots with bars, axes with round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from medpretrain3d.visualization.axes import Axis, empty_plot, set_axis
from medpretrain3d.visualization.style import (
    LETTER_HEIGHT_PT,
    MARGIN_BELOW_PT,
    arm_style,
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
        color, style, _ = arm_style(self.arm)
        return {"color": color, "linestyle": style if self.has_line else "none"}


def line_plot(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Return an `<svg>` element; intervals are a band along a line, and bars on dots, which show their value."""
    with empty_plot(WIDTH, HEIGHT, "y") as (figure, axes):
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
