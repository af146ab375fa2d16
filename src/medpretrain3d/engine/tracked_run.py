"""What a tracker beside `metrics.csv` is told of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray

from medpretrain3d.backbones import EncoderFile
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.engine.results_board import ResultsBoard
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.run_metadata import RunMetadata

SAMPLES = "samples_seen"
"""Samples of all optimizer steps up to the one of a row, which is counted from 0, as in the column `step`."""


class TrackedRun(Logger):
    """A logger that shows more than curves; each shows what it can.

    Its methods are called in the first process alone.
    """

    title = "tracker"
    """Name of the program in messages."""
    samples_per_step: int | None = None
    silent_until = 0.0
    """Time (`time.monotonic`) until which it is told nothing, because it took nothing."""
    is_told_of = False
    """Whether it was said that it takes nothing."""

    def attempt(self, send: Callable[[], object], refusals: tuple[type[Exception], ...], pause: float) -> bool:
        """Tell it something, and return whether that worked; what fails ends no run, `metrics.csv` has every number.

        Args:
            send: tells it.
            refusals: errors by which it takes nothing.
            pause: for how many times as long as a failed call took it is told nothing more.
        """
        began = time.monotonic()
        if began < self.silent_until:
            return False
        try:
            send()
        except refusals as error:
            now = time.monotonic()
            self.silent_until = now + pause * max(now - began, 0.1)
            if not self.is_told_of:
                self.is_told_of = True
                why = " ".join(str(error).split())[:300]
                run_log.say(
                    f"{self.title}: takes no numbers ({why}); the run goes on, and its metrics.csv has them all"
                )
            return False
        return True

    def with_samples(self, metrics: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        """Return metrics with `samples_seen` beside them."""
        return with_samples(metrics, step, self.samples_per_step)

    def show(self, board: ResultsBoard, step: int) -> None:
        """Show the results of a test."""

    def show_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture (H, W, 3) of what the run is at."""

    def use_weights(self, kind: str, sha256: str, source: Path | None, about: Mapping[str, Any]) -> None:
        """Say which weights the run begins with."""

    def keep_weights(self, kind: str, sha256: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Say which weights the run made."""

    def conclude(self, metadata: RunMetadata) -> None:
        """Add what is known at the end, and close the run."""

    def leave(self) -> None:
        """Write what is waiting of a run that was interrupted or has failed; nothing after `conclude`."""


def with_samples(metrics: Mapping[str, Any], step: int | None, samples_per_step: int | None) -> dict[str, Any]:
    """Return metrics of an optimizer step with `samples_seen` beside them, where it is known and not there already."""
    if step is None or samples_per_step is None:
        return dict(metrics)
    return {SAMPLES: (step + 1) * samples_per_step, **metrics}


def tracked_runs(trainer: L.Trainer) -> list[TrackedRun]:
    """Return the trackers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, TrackedRun)]


def use_initial_weights(trainer: L.Trainer, init_from: str | None, encoder: EncoderFile | None) -> None:
    """Tell the trackers of a trainer which weights its run begins with.

    Args:
        trainer: of the run.
        init_from: where they were read.
        encoder: what was read; None of a run that begins from scratch.
    """
    if encoder is None or init_from is None:
        return
    source = locate(init_from)
    kind = "detector" if (source / "bundle.json").is_file() else "encoder"
    pretraining = encoder.card.get("pretraining") or {}
    about = {key: pretraining[key] for key in ("run", "paradigm", "method", "corpus") if pretraining.get(key)}
    for tracked in tracked_runs(trainer):
        tracked.use_weights(kind, encoder.sha256, source, about)
