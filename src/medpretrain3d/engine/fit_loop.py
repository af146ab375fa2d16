"""Lightning's training loop, continued at the position that the number of steps alone determines."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _Progress


class ResumableFitLoop(_FitLoop):
    """Continues a run between two optimizer steps, wherever in Lightning's many counters it was interrupted.

    A checkpoint holds weights after whole steps, and no gradients. So all counters follow from `global_step`: a step
    whose batches were begun is begun again, and accumulation goes on at its first batch.
    """

    @staticmethod
    def of(trainer: L.Trainer) -> ResumableFitLoop:
        """Take the place of a trainer's loop."""
        loop = ResumableFitLoop(trainer, trainer.min_epochs or 0, trainer.max_epochs)
        loop.epoch_loop = trainer.fit_loop.epoch_loop
        trainer.fit_loop = loop
        return loop

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do.

        A run that had made all its steps when it was interrupted still goes through the hooks that close training: the
        last validation may be missing, and averaged weights replace the last ones there.
        """
        return super().done and not self.restarting

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        """Take the number of steps from a checkpoint and derive everything else.

        Lightning's words for where it stands then: in the middle of the only epoch, at the end of the last batch of a
        step, before that batch counts as completed.
        """
        super().load_state_dict(state_dict, prefix)
        loop = self.epoch_loop
        num_batches = loop.global_step * self.trainer.accumulate_grad_batches
        _set(self.epoch_progress, ready=1, started=1, processed=0, completed=0)
        before = num_batches - 1
        _set(loop.batch_progress, ready=num_batches, started=num_batches, processed=num_batches, completed=before)
        loop.batch_progress.is_last_batch = False
        loop.val_loop.batch_progress.reset()
        loop._batches_that_stepped = loop.global_step - 1  # what curves call the step of this batch

    def is_between_steps(self) -> bool:
        """Return whether the last step is whole, its metrics are logged, and no batch of the next one has begun."""
        loop = self.epoch_loop
        progress, steps = loop.batch_progress.current, loop.global_step
        num_batches = steps * self.trainer.accumulate_grad_batches
        return progress.ready == progress.completed == num_batches and loop._batches_that_stepped == steps

    def is_validation_due(self) -> bool:
        """Return whether a validation follows the batch at which training stands."""
        assert self._data_fetcher is not None
        return self.epoch_loop._should_check_val_fx(self._data_fetcher)

    def validate(self) -> None:
        """Make up for the validation that follows the batch at which training stands."""
        self.trainer.validating = True
        self.epoch_loop.val_loop.run()
        self.trainer.training = True


def _set(progress: _Progress, **counts: int) -> None:
    progress.total.load_state_dict(counts)
    progress.current.load_state_dict(counts)
