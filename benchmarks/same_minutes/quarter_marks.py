"""Marks of our own runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from benchmarks.same_minutes.marks import Stopwatch, add_mark


class QuarterMarks(L.Callback):
    """Notes where a run is every so many steps, before anything is validated.

    Args:
        file: receives the marks.
        every_n_steps: between two marks.
    """

    def __init__(self, file: str, every_n_steps: int) -> None:
        self.file = Path(file)
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the watch."""
        self._watch = Stopwatch()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Note a mark where one is due."""
        if trainer.global_step % self.every_n_steps == 0:
            add_mark(self.file, self._watch.mark(trainer.global_step))
