"""Tables that are printed on a terminal and shown on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from medpretrain3d.lines import shown_p
from medpretrain3d.statistics.pseudo_values import ROUNDING


@dataclass(frozen=True)
class Estimate:
    """A measured number and its interval; None or not-a-number where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    is_signed: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is a value."""
        return is_finite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return is_finite(self.low) and is_finite(self.high)

    @property
    def value_text(self) -> str:
        """Three decimals, or a dash; of a difference that would be 0 then, its first digit."""
        return self._number(self.value) if is_finite(self.value) else "-"

    @property
    def interval_text(self) -> str:
        """`[low, high]`, or nothing."""
        if not (is_finite(self.low) and is_finite(self.high)):
            return ""
        return f"[{self._number(self.low)}, {self._number(self.high)}]"

    def __str__(self) -> str:
        return f"{self.value_text} {self.interval_text}".rstrip()

    def _number(self, value: float) -> str:
        if not self.is_signed:
            return f"{value:.3f}"
        if abs(value) <= ROUNDING:
            return "+0.000"
        # On which side of 0 a difference or an end of its interval lies is what a verdict goes by.
        return f"{value:+.3f}" if abs(value) >= 0.0005 else f"{value:+.1g}"


@dataclass(frozen=True)
class PValue(Estimate):
    """A p value, shown as `shown_p` does."""

    def _number(self, value: float) -> str:
        return shown_p(value)


Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A header and rows of texts and estimates; the first `num_text_columns` are read, the rest are compared."""

    header: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    num_text_columns: int = 1
    facts: list[Mapping[str, str]] = field(default_factory=list)
    """Of each row, what a page filters by; empty where it does not."""
    column_arms: Mapping[int, int] = field(default_factory=dict)
    """Of the columns that are of one arm, its place among the colors."""
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Verdicts on cells, by row and column."""

    @property
    def facts_of_rows(self) -> list[Mapping[str, str]]:
        """One entry per row."""
        return self.facts or [{}] * len(self.rows)

    def add(self, row: Sequence[Cell], facts: Mapping[str, str]) -> None:
        """Append a row that a page filters."""
        self.rows.append(row)
        self.facts.append(facts)

    def __str__(self) -> str:
        """Return columns aligned for a terminal: words to the left, numbers to the right."""
        lines = [list(self.header), *([str(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column < self.num_text_columns else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def is_finite(value: float | None) -> TypeGuard[float]:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)
