"""Weights that a run keeps on its way: how good are they after so many steps or hours?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging

from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.run import RunConfig

Write = Callable[[L.Trainer, Path, dict[str, Any]], None]
"""Writes the product of a stage into a folder, with the weights that are in its module and, whole, in its state."""


class Snapshots(Callback):
    """Keeps what a run would end with, every so many steps or hours: an encoder file, or a bundle.

    Of averaged weights the average is kept, as at the end. Nothing of the training is changed by it. `EndTogether`
    asks and calls between two steps.

    Args:
        run: how often, and where.
        write: what the stage writes; the first process alone calls it.
        hours: of the run so far, over all sittings.
    """

    def __init__(self, run: RunConfig, write: Write, hours: Callable[[], float]) -> None:
        self._folder = run.snapshots
        self._every_n_steps = run.snapshot_every_steps
        self._every_hours = run.snapshot_every_hours
        self._write = write
        self._hours = hours
        self._saved_hours = 0.0
        self._saved_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the hours at the last one: how many intervals they are is another number in a sitting with others."""
        return {"hours": self._saved_hours}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; that of earlier versions is a number of intervals, which are taken for today's."""
        of_intervals = min(state_dict.get("num_by_hours", 0) * (self._every_hours or 0.0), self._hours())
        self._saved_hours = state_dict.get("hours", of_intervals)

    def is_due(self, step: int) -> bool:
        """Return whether one is due after this step, by the clock of this process."""
        if not step or step == self._saved_step:
            return False
        is_step = self._every_n_steps is not None and step % self._every_n_steps == 0
        return is_step or self._num_intervals(self._hours()) > self._num_intervals(self._saved_hours)

    def save(self, trainer: L.Trainer) -> None:
        """Write one; every process calls this."""
        self._saved_step = step = trainer.global_step
        self._saved_hours = self._hours()
        folder = self._folder / f"step_{step:07d}"
        with _averaged(trainer):
            state = trainer.strategy.lightning_module_state_dict()  # every process, where they are dealt out
            if trainer.is_global_zero:
                self._write(trainer, folder, state)
        rank_zero_print(f"step {step:,}: snapshot {folder}")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """All steps are made; a longer run than this one may follow, and its end takes the place of this one."""
        if trainer.strategy.broadcast(self.is_due(trainer.global_step)):
            self.save(trainer)

    def _num_intervals(self, hours: float) -> int:
        return int(hours / self._every_hours) if self._every_hours is not None else 0


@contextmanager
def _averaged(trainer: L.Trainer) -> Iterator[None]:
    """Put averaged weights in the place of the others, and take them out again."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a list of them
    averages = [one for one in callbacks if isinstance(one, WeightAveraging) and one._average_model is not None]
    for one in averages:
        one._swap_models(trainer.lightning_module)
    try:
        yield
    finally:
        for one in averages:
            one._swap_models(trainer.lightning_module)
