"""What a tracker beside `metrics.csv` is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray

from medpretrain3d.backbones import EncoderFile
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.engine.results_board import ResultsBoard
from medpretrain3d.run_metadata import RunMetadata

SAMPLES = "samples_seen"
"""Samples of all optimizer steps up to the one of a row, which is counted from 0, as in the column `step`."""


class TrackedRun(Logger):
    """A logger that shows more than curves; each shows what it can.

    Its methods are called in the first process alone.
    """

    samples_per_step: int | None = None

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
