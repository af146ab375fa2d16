"""Marks of a training run: how far it was after so many minutes of its core."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.memory import high_water_mb

NUM_MARKS = 4
"""Quarters of a run."""


@dataclass(frozen=True)
class Mark:
    """Where a run was: steps, minutes of CPU time and by the clock since training began, and its peak memory in MB."""

    step: int
    minutes: float
    clock_minutes: float
    peak_mb: float


class Stopwatch:
    """CPU time and time by the clock of this process, from when it is made."""

    def __init__(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    @property
    def minutes(self) -> float:
        """Of CPU time."""
        return (time.process_time() - self._cpu) / 60

    def mark(self, step: int) -> Mark:
        """Return where the run is now."""
        return Mark(step, self.minutes, (time.perf_counter() - self._clock) / 60, high_water_mb())


def add_mark(file: Path, mark: Mark) -> None:
    """Append a mark to a file."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(mark)) + "\n")


def read_marks(file: Path) -> list[Mark]:
    """Return the marks of a file, the first one first; none where it is missing."""
    return [Mark(**json.loads(line)) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
