"""Curves of a run: the columns of its `metrics.csv`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from medpretrain3d.documents import read_table
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Curve:
    """A number that was measured at some steps of a run, in rising order."""

    steps: Sequence[float]
    values: Sequence[float]

    def __len__(self) -> int:
        return len(self.steps)

    def binned(self, max_points: int) -> Curve:
        """At most `max_points` points: each the mean over an equal share of the curve."""
        if len(self) <= max_points:
            return self
        edges = [round(i * len(self) / max_points) for i in range(max_points + 1)]
        parts = [slice(start, stop) for start, stop in pairwise(edges)]
        return Curve([_mean(self.steps[part]) for part in parts], [_mean(self.values[part]) for part in parts])


def read_curves(path: Path) -> dict[str, Curve]:
    """Every numeric column of a `metrics.csv` against its column `step`, without empty cells and non-finite values.

    A last line that lacks cells and its end was torn by a crash, and its numbers with it: it is left out.

    Raises:
        UserError: the file has no column `step`, or a cell of it is no number.
    """
    finite: dict[str, list[tuple[float, float]]] = {}
    for name, pairs in _points(path).items():
        if known := [pair for pair in pairs if math.isfinite(pair[1])]:
            finite[name] = known
    return {name: Curve(*zip(*sorted(pairs), strict=True)) for name, pairs in finite.items()}


def last_value(path: Path, column: str) -> float | None:
    """Return the number of a column at its last step, be it finite or not; None where it has none.

    Raises:
        UserError: as `read_curves`.
    """
    pairs = _points(path).get(column)
    return max(pairs, key=lambda pair: pair[0])[1] if pairs else None


def _points(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return steps and numbers of every column that has any."""
    rows = read_table(path, (), "repeat the run", drop_torn=True)
    if rows and "step" not in rows[0]:
        raise UserError(f"{path}: has no column 'step' (it has {', '.join(rows[0])[:200]}); repeat the run")
    points: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(rows, start=2):
        step = _number(row["step"])
        if step is None or not math.isfinite(step):
            raise UserError(f"{path}: line {number}: step is {row['step']!r}, wanted a number; remove the line")
        for name, cell in row.items():
            if not cell or name in ("step", "epoch"):
                continue
            value = _number(cell)
            if value is not None:
                points.setdefault(name, []).append((step, value))
    return points


def _number(cell: object) -> float | None:
    try:
        return float(str(cell))
    except ValueError:
        return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
