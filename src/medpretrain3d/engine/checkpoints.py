"""When a run's state is kept, and what of it Lightning does not keep."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from medpretrain3d.engine.checkpoint_files import adopt, checkpoint_path, keep_only
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.fit_loop import ResumableFitLoop
from medpretrain3d.engine.progress_lines import duration
from medpretrain3d.engine.time_limit import is_out_of_time
from medpretrain3d.errors import MachineError, UserError, exit_code


@runtime_checkable
class TellsBeforeSaving(Protocol):
    """A module whose state is of all processes.

    `on_save_checkpoint` must not wait for the others: the first process alone calls it where one has failed.
    """

    def on_before_save(self) -> None:
        """Exchange what is kept; every process calls this."""


class Checkpoints(Checkpoint):
    """Keeps the state of a run between two steps: every so many, before and after each validation, and at the end.

    Never within a step: between the update of the weights and those of schedule, averaged weights or teacher, or after
    a forward pass that moved the statistics of a batch norm, no state is one that an undisturbed run ever has.

    Args:
        folder: where the files go; the last two are kept.
        every_n_steps: optimizer steps from one to the next.
        every_s: seconds of training after which a state is kept in any case: what an interruption can cost.
    """

    def __init__(self, folder: Path, every_n_steps: int, every_s: float = math.inf) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self._every_s = every_s
        self._saved_s = time.monotonic()
        self.resumed_from: Path | None = None
        """The file that this sitting begins with; set before training."""
        self._kept: list[Path] = []
        self._validated_step = -1
        self._saved: tuple[int, int, bool] | None = None  # where training stood, see `_place`
        self._stopped_of: int | None = None
        """Steps of the run that an early stopping had ended before; None where nothing has, or the time was up."""
        self._random_state: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the validated step and the state of the generators that a layer of a recipe may draw from."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "validated_step": self._validated_step,
            "stopped_of": self._stopped_of,
            "random_state": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._validated_step = state_dict["validated_step"]
        self._stopped_of = state_dict.get("stopped_of")  # earlier versions did not keep it
        self._random_state = state_dict["random_state"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin where the run was interrupted, with the validation that it may not have finished."""
        self._saved_s = time.monotonic()
        step, loop = trainer.global_step, _loop(trainer)
        if not step or self.resumed_from is None:
            return
        if trainer.is_global_zero:
            self._kept = adopt(self.resumed_from, self.folder, step)
        # Else it would train on until the callback that had ended it comes to it again.
        is_stopped = self._stopped_of is not None and trainer.max_steps <= self._stopped_of
        trainer.should_stop = is_stopped or trainer.should_stop  # by a timer, once its state was read
        self._saved = self._place(trainer)
        if self._random_state:
            torch.set_rng_state(self._random_state["cpu"])
            if len(self._random_state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(self._random_state["cuda"])
        if self._validated_step != step and loop.is_validation_due():
            loop.validate()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The step before is whole and its metrics are logged."""
        is_first = batch_idx % trainer.accumulate_grad_batches == 0
        if is_first and trainer.global_step and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before a validation, which may take long, and in which averaged weights stand in for the others."""
        if _is_after_step(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """It need not be made up."""
        if _is_after_step(trainer):
            self._validated_step = trainer.global_step
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """All steps are made."""
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Keep what is whole, without waiting for other processes: they may never come."""
        if getattr(trainer.strategy, "is_sharded", False):  # nothing is whole without the others
            return
        is_new = self._saved != self._place(trainer)
        if trainer.is_global_zero and trainer.global_step and is_new and _loop(trainer).is_between_steps():
            try:
                self._write(trainer, self._state(trainer))
            except UserError as error:
                rank_zero_print(f"{error}; the run continues from {self._continued_from}")

    def save(self, trainer: L.Trainer) -> None:
        """Keep the state, between two steps; every process calls this, the first one writes.

        Raises:
            UserError: it could not be written, on every process.
        """
        if self._saved == self._place(trainer):
            return
        for logger in trainer.loggers:
            logger.save()  # curves reach at least as far as the checkpoint
        module = trainer.lightning_module
        if isinstance(module, TellsBeforeSaving):
            module.on_before_save()
        state = self._state(trainer)  # every process, for strategies that gather it
        failure = None
        if trainer.is_global_zero:
            try:
                self._write(trainer, state)
            except UserError as error:
                said = f"{error}; the run continues from {self._continued_from}"  # which it alone knows
                failure = said, exit_code(error)
        failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            text, code = failure
            raise (MachineError if code == 1 else UserError)(text)
        self._saved = self._place(trainer)
        self._saved_s = time.monotonic()

    def is_due(self) -> bool:
        """Return whether the last state was kept too long ago, by the clock of this process."""
        return time.monotonic() - self._saved_s >= self._every_s

    @property
    def _continued_from(self) -> str:
        return str(self._kept[-1]) if self._kept else "its start"

    def _place(self, trainer: L.Trainer) -> tuple[int, int, bool]:
        """Return the step, the last step that was validated, and whether training is to end here."""
        return trainer.global_step, self._validated_step, trainer.should_stop

    def _state(self, trainer: L.Trainer) -> dict[str, Any]:
        is_stopped = trainer.should_stop and not is_out_of_time(trainer)
        self._stopped_of = trainer.max_steps if is_stopped else None
        return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)

    def _write(self, trainer: L.Trainer, state: dict[str, Any]) -> None:
        path = checkpoint_path(self.folder, trainer.global_step)
        begun_s = time.monotonic()
        trainer.strategy.save_checkpoint(state, path)
        if path not in self._kept:  # else it is the same step, validated
            size_mb, took = path.stat().st_size / 1e6, duration(time.monotonic() - begun_s)
            rank_zero_print(f"step {trainer.global_step:,}: checkpoint {path}, {size_mb:,.1f} MB in {took}")
        self._kept = [*(one for one in self._kept if one != path), path][-2:]
        keep_only(self.folder, self._kept)


def _is_after_step(trainer: L.Trainer) -> bool:
    """Return whether a validation is one of a training run, and not in the middle of an accumulated step."""
    if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.global_step == 0:
        return False
    num_batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return num_batches == trainer.global_step * trainer.accumulate_grad_batches


def _loop(trainer: L.Trainer) -> ResumableFitLoop:
    loop = trainer.fit_loop
    assert isinstance(loop, ResumableFitLoop)
    return loop
