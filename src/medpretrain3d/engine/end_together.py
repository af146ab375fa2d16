"""What the processes of a trainer agree on between two steps: to keep their state, and to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from medpretrain3d.engine.checkpoints import Checkpoints
from medpretrain3d.engine.ending import ending
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.snapshots import Snapshots
from medpretrain3d.interruption import Interrupted, signals


class EndTogether(Checkpoint):
    """Ends all processes at the same step when one of them was told to, and at once when one of them fails.

    Whether it is time to keep the state is what the clock of the first process says.

    Steps are whole or not made: while training, a signal waits for the end of the step (`interruption.GRACE_S` at
    most), all processes agree, and the state is kept. Anywhere else, as in a validation, where processes have different
    numbers of cases and cannot agree, it ends the process at once; what is to continue from was kept before.

    A failing process neither saves nor waits at a barrier, which the others would never reach.

    It is a `Checkpoint` only because Lightning calls those last: then a step is whole.

    Args:
        checkpoints: keep the state of a trainer.
        snapshots: keep the weights on the way.
        farewell: the last line of a run that was told to end by a signal.
    """

    def __init__(self, checkpoints: Checkpoints, snapshots: Snapshots, farewell: Callable[[int], str]) -> None:
        self._checkpoints = checkpoints
        self._snapshots = snapshots
        self._farewell = farewell

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """The processes can reach each other from here on."""
        ending.connect(trainer)
        signals.farewell, signals.keep_words = self._farewell, run_log.keep

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps: keep what is due, and end if a process was told to.

        Raises:
            Interrupted: one was, and the state is kept.
        """
        signals.mode = "note"
        if batch_idx % trainer.accumulate_grad_batches == 0:
            clock = (self._checkpoints.is_due(), self._snapshots.is_due(trainer.global_step))
            due = clock if trainer.is_global_zero else (False, False)
            message = torch.tensor([signals.received or 0, *map(int, due)], device=trainer.strategy.root_device)
            signum, is_checkpoint_due, is_snapshot_due = trainer.strategy.reduce(message, reduce_op="max").tolist()
            if is_snapshot_due:
                self._snapshots.save(trainer)
            if (signum or is_checkpoint_due) and trainer.global_step:
                self._checkpoints.save(trainer)
            if signum:
                raise Interrupted(signum)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """No need to wait."""
        self._wait_no_more()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """No need to wait."""
        self._wait_no_more()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """End the other processes; alone, whoever started the trainer says what happened."""
        if trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt):
            return
        if not isinstance(exception, SystemExit) and ending.is_connected:
            ending.fail(exception)

    def _wait_no_more(self) -> None:
        signals.mode = "raise"
        signals.check()


def leave_signals_alone(trainer: L.Trainer) -> None:
    """Keep Lightning from broadcasting in its handler of SIGTERM, which hangs unless all processes get the signal."""
    connector: Any = trainer._signal_connector  # which has no switch
    connector._sigterm_notifier_fn = _do_nothing


def _do_nothing(*_: Any) -> None:
    pass
