"""Scalars of a training step as curves show them: means over its accumulated batches and over the processes."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor

from medpretrain3d.processes import mean_over_processes


class StepMeans:
    """Means of named scalars over the batches that a step accumulates, and over all processes at steps that are logged.

    Lightning itself would log what the last batch of a step gave. Nothing is kept from one step to the next.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, trainer: L.Trainer, values: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the means over the batches of this step so far.

        Processes exchange them once, with the last batch of a step that is logged; until then, and at all other steps,
        they are those of this process.

        Args:
            trainer: that steps.
            values: scalars of this batch by their names; a name that another batch of the step lacks is averaged over
                those that have it.
            batch_idx: of the batch, counted from the beginning of the run.
        """
        num_batches = trainer.accumulate_grad_batches
        if batch_idx % num_batches == 0:
            self._sums, self._counts = {}, {}
        for name, value in values.items():
            own = value.detach().float()
            self._sums[name] = self._sums[name] + own if name in self._sums else own
            self._counts[name] = self._counts.get(name, 0) + 1
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        is_whole = (batch_idx + 1) % num_batches == 0
        if is_whole and interval and (trainer.global_step + 1) % interval == 0:
            means = mean_over_processes(means)
        return dict(zip(self._sums, means.unbind(), strict=True))
