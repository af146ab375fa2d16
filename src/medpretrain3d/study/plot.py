"""Line plots as SVG text: small, sharp in print, and in the colours of the page around them.

Colours are the page's CSS variables `--arm-0` .. `--arm-6`, so a plot follows the light or dark theme by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NUM_COLOURS = 7
WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 42


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour and its points, with an interval at each where `low` and `high` are given."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    has_line: bool = True
    has_dots: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: label, limits (from the data where None), places with a text (round numbers where None), scale."""

    label: str
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] | None = None
    is_log2: bool = False
    max_slack: float = 1.0


def line_plot(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """An `<svg>` element; intervals are a band along a line, and bars on dots."""
    x_scale = _Scale(x, [value for one in series for value in one.x], LEFT, WIDTH - RIGHT)
    heights = [value for one in series for part in (one.y, one.low, one.high) for value in part or ()]
    y_scale = _Scale(y, heights, HEIGHT - BOTTOM, TOP)
    parts = [*_frame(x, y, x_scale, y_scale)]
    parts += [_band(one, x_scale, y_scale) for one in series if one.low and one.high and not one.has_dots]
    for one in series:
        parts += _marks(one, x_scale, y_scale)
    names = ", ".join(dict.fromkeys(one.name for one in series))
    label = escape(f"{y.label} by {x.label}: {names}", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


class _Scale:
    """Data to pixels along one axis."""

    def __init__(self, axis: Axis, values: Sequence[float], start_px: float, stop_px: float) -> None:
        self._transform = math.log2 if axis.is_log2 else float
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low = min(finite) if axis.low is None else axis.low
        high = max(finite) if axis.high is None else axis.high
        if high - low <= 1e-12 * max(abs(low), abs(high), 1.0):  # one value, as far as a picture can tell
            half = 0.5 * abs(low) if abs(low) > 1e-9 else 0.5
            low, high = (low / 2, low * 2) if axis.is_log2 else (low - half, low + half)
        if axis.ticks is None:
            low, high = _rounded(low, high, axis)
        self.ticks = axis.ticks if axis.ticks is not None else _round_ticks(low, high)
        self._a, self._b = self._transform(low), self._transform(high)
        self._start_px, self._stop_px = start_px, stop_px

    def __call__(self, value: float) -> float:
        share = (self._transform(value) - self._a) / (self._b - self._a)
        return self._start_px + min(max(share, 0.0), 1.0) * (self._stop_px - self._start_px)


def _round_step(low: float, high: float) -> float:
    rough = (high - low) / 4
    magnitude = 10 ** math.floor(math.log10(rough))
    return next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)


def _rounded(low: float, high: float, axis: Axis) -> tuple[float, float]:
    """Free limits moved out to the next tick, unless that leaves more than `max_slack` of the axis empty."""
    step = _round_step(low, high)
    slack = axis.max_slack * (high - low)
    wide_low, wide_high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return (
        wide_low if axis.low is None and low - wide_low <= slack else low,
        wide_high if axis.high is None and wide_high - high <= slack else high,
    )


def _round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    step = _round_step(low, high)
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, _short(value)) for value in values]


def _short(value: float) -> str:
    if value and abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{round(value, 10):g}"


def _frame(x: Axis, y: Axis, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, text in y_scale.ticks:
        at = y_scale(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x_scale.ticks:
        at = x_scale(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text class="name" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>')
    parts.append(
        f'<text class="name" transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    return parts


def _band(one: Series, x_scale: _Scale, y_scale: _Scale) -> str:
    assert one.low is not None
    assert one.high is not None
    points = [p for p in zip(one.x, one.low, one.high, strict=True) if all(map(math.isfinite, p))]
    there = [f"{x_scale(x):.1f},{y_scale(high):.1f}" for x, _, high in points]
    back = [f"{x_scale(x):.1f},{y_scale(low):.1f}" for x, low, _ in reversed(points)]
    return f'<polygon class="band" style="{_colour(one)}" points="{" ".join(there + back)}"/>' if points else ""


def _marks(one: Series, x_scale: _Scale, y_scale: _Scale) -> list[str]:
    style = _colour(one)
    points = [(x_scale(x), y_scale(y)) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    parts = []
    if one.has_line and len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line" style="{style}" points="{path}"/>')
    if not one.has_dots and len(points) != 1:
        return parts
    if one.low and one.high:
        for x, low, high in zip(one.x, one.low, one.high, strict=True):
            if math.isfinite(low) and math.isfinite(high):
                at, top, bottom = x_scale(x), y_scale(high), y_scale(low)
                d = f"M{at:.1f} {bottom:.1f}V{top:.1f}M{at - 3:.1f} {top:.1f}h6M{at - 3:.1f} {bottom:.1f}h6"
                parts.append(f'<path class="bar" style="{style}" d="{d}"/>')
    for (x, y), value in zip(points, [y for y in one.y if math.isfinite(y)], strict=True):
        tip = escape(f"{one.name}: {value:.3f}")
        parts.append(
            f'<circle class="dot" style="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{tip}</title></circle>'
        )
    return parts


def _colour(one: Series) -> str:
    return f"--arm:var(--arm-{one.colour % NUM_COLOURS})"
