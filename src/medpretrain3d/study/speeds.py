"""Minutes that a step of a job takes: of runs like it that are done, on their way, or of an earlier study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import flattened
from medpretrain3d.documents import json_text, read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata, read_run_metadata
from medpretrain3d.study.curves import read_curves
from medpretrain3d.study.inputs import short_hash
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import RUN

NETWORK = ("model.detector.", "model.objective.", "data.patch", "data.batch_size", "trainer.precision")
"""Beginnings of the options that decide how long a step takes."""
TEACHER = "model.semi_supervised.class_path"
"""A step beside a teacher takes as long again: what one run has of it, one like it has, too."""
SPEED = "perf/samples_per_s"
"""Column of the curves of a run."""


ENOUGH_STEPS = 50
"""Of a run that is done: in a shorter one starting and testing are most of the minutes."""


@dataclass(frozen=True)
class Speed:
    """How long a step takes, and where that was seen."""

    minutes_per_step: float
    num_runs: int
    source: str
    """Empty where runs of the study itself say so."""


@dataclass
class Speeds:
    """Speeds of the jobs of a study.

    Args:
        pilots: folders below which other runs lie, looked at for what no run of the study says.
    """

    pilots: Sequence[Path] = ()
    _own: dict[tuple[str, ...], list[float]] = field(default_factory=dict)
    _others: list[tuple[Path, RunMetadata]] | None = None
    _found: dict[tuple[str, ...], Speed | None] = field(default_factory=dict)

    def add(self, job: Job, folder: Path) -> None:
        """Take the speed of a job's own run, as far as it is."""
        if (minutes := minutes_per_step(folder, job.facts.get("data.batch_size"))) is not None:
            self._own.setdefault(self.like(job), []).append(minutes)

    @staticmethod
    def like(job: Job) -> tuple[str, ...]:
        """Return what jobs of one speed have in common: place and network, which arms and budgets may change."""
        keys = ("arm", "data") if job.kind == "pretrain" else ("data", "detector")
        network = sorted((key, value) for key, value in _network_of(job).items() if value is not None)
        return (job.kind, *(job.setting.get(key, "") for key in keys), short_hash(json_text(network)))

    def of(self, job: Job) -> Speed | None:
        """Return the speed of runs like a job; None where there are none."""
        if own := self._own.get(self.like(job)):
            return Speed(statistics.median(own), len(own), "")
        key = (*self.like(job), job.setting.get("arm", ""))
        if key not in self._found:
            self._found[key] = self._of_others(job)
        return self._found[key]

    def _of_others(self, job: Job) -> Speed | None:
        if self._others is None:
            self._others = [one for folder in self.pilots for one in _runs_below(folder)]
        network = _network_of(job)
        speeds, folders = [], []
        for folder, metadata in self._others:
            if metadata.stage == job.kind and _is_like(network, folder):
                minutes = minutes_per_step(folder, job.facts.get("data.batch_size"))
                speeds += [minutes] if minutes is not None else []
                folders += [folder] if minutes is not None else []
        return Speed(statistics.median(speeds), len(speeds), str(folders[0])) if speeds else None


def _network_of(job: Job) -> dict[str, Any]:
    named = {key: value for key, value in job.facts.items() if key.startswith(NETWORK)}
    return {**named, TEACHER: job.facts.get(TEACHER)}


def minutes_per_step(folder: Path, batch_size: object) -> float | None:
    """Return how long a step of a run takes: all of it, if it is done, and otherwise its first steps.

    Validation and test are in the time of a run that is done, and not in that of first steps.
    """
    with suppress(UserError, OSError):
        known = read_run_metadata(folder / RUN)
        if known.finished and known.minutes and (known.steps or 0) >= ENOUGH_STEPS:
            return known.minutes / (known.steps or 1)
        path = folder / "metrics.csv"
        curves = read_curves(path) if path.is_file() else {}
        if SPEED in curves and isinstance(batch_size, int):
            return batch_size / statistics.median(curves[SPEED].values) / 60
        if known.finished and known.minutes and known.steps:
            return known.minutes / known.steps
    return None


def _runs_below(folder: Path) -> list[tuple[Path, RunMetadata]]:
    found = []
    for path in sorted([*folder.glob(RUN), *folder.glob(f"*/{RUN}"), *folder.glob(f"*/*/{RUN}")]):
        with suppress(UserError, OSError):
            found.append((path.parent, read_run_metadata(path)))
    return found


def _is_like(network: Mapping[str, Any], folder: Path) -> bool:
    """Return whether a run had the options that a job names; those that it leaves out are the defaults of both."""
    try:
        options = flattened(read_yaml(folder / "config.yaml", "repeat the run"))
    except (UserError, OSError):
        return False
    return all(options.get(key) == value for key, value in network.items())
