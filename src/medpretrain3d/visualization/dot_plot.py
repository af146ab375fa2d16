"""Dots with intervals, a row per thing that is measured: forest plots, and numbers of arms beside each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from medpretrain3d.visualization.axes import Axis, empty_plot, set_axis
from medpretrain3d.visualization.style import (
    INK,
    LETTER_HEIGHT_PT,
    MARGIN_BELOW_PT,
    MARGIN_PT,
    PALE,
    arm_style,
    arm_tag,
    inline_svg,
    set_margins,
    text_width,
    with_arms_and_tips,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_PT, ARM_PT = 9, 9
"""Height of a row without dots, and of each dot in it."""
LINE_PT = 1.2 * LETTER_HEIGHT_PT
"""Height of a line of a label, as matplotlib sets it."""


@dataclass(frozen=True)
class Dot:
    """A number of an arm with its interval, nan where there is none."""

    arm: int
    """Place of its color among those of the arms."""
    value: float
    low: float
    high: float
    tip: str
    """What is said where the mouse points at it."""
    is_open: bool = False
    """Whether it is drawn as a ring: nothing follows from it."""


@dataclass(frozen=True)
class DotRow:
    """One row: its label and its dots, from top to bottom."""

    label: str
    dots: Sequence[Dot]


def dot_plot(rows: Sequence[DotRow], x: Axis, zero: str = "", width: int = 360) -> str:
    """Return an `<svg>` element.

    Args:
        rows: from top to bottom; those without dots are left out.
        x: the axis of the numbers.
        zero: what 0 stands for; a line is drawn there. Empty for none.
        width: of the picture in points.
    """
    rows = [row for row in rows if row.dots]
    heights = [max(ROW_PT + ARM_PT * len(row.dots), 4 + LINE_PT * len(row.label.splitlines())) for row in rows]
    with empty_plot(width, sum(heights) + MARGIN_BELOW_PT + MARGIN_PT, "x") as (figure, axes):
        axes.set(xlabel=x.label)
        values = [part for row in rows for dot in row.dots for part in (dot.value, dot.low, dot.high)]
        set_axis(axes.xaxis, x, [*values, *([0.0] if zero else [])])
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        tips: list[str] = []
        middles, top = [], 0.0
        for row, height in zip(rows, heights, strict=True):
            middles.append(top + height / 2)
            for place, dot in enumerate(row.dots):
                tips += _draw(axes, dot, middles[-1] + ARM_PT * (place - (len(row.dots) - 1) / 2))
            top += height
            if row is not rows[-1]:
                axes.axhline(top, color=PALE, linewidth=0.7)
        axes.set_yticks(middles, [row.label for row in rows])
        axes.set_ylim(top, 0)
        set_margins(figure, 10 + text_width([line for row in rows for line in row.label.splitlines()]), MARGIN_BELOW_PT)
        svg = inline_svg(figure, escape(f"{x.label}: {', '.join(row.label for row in rows)}", quote=True))
    return with_arms_and_tips(svg, tips)


def _draw(axes: Axes, dot: Dot, at: float) -> Iterator[str]:
    """Draw a dot and its interval; returns what it says."""
    if not math.isfinite(dot.value):
        return
    color, line, marker = arm_style(dot.arm)
    if math.isfinite(dot.low) and math.isfinite(dot.high):
        ends, tag = [dot.low, dot.high], arm_tag(dot.arm)
        axes.plot(ends, [at, at], color=color, linestyle=line, linewidth=1.8, gid=tag, alpha=0.75)
    face = "none" if dot.is_open else color
    tag = arm_tag(dot.arm, has_tip=True)
    axes.plot([dot.value], [at], marker, color=color, markerfacecolor=face, markersize=5, gid=tag, clip_on=False)
    yield dot.tip
