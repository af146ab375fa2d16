"""What a run costs: hours of its devices, and arithmetic."""

from __future__ import annotations

import os
from typing import Any

import lightning as L
from torch.utils.flop_counter import FlopCounterMode


class ComputeMeter(L.Callback):
    """Counts the floating point operations of the first batch of a sitting, forward and backward pass.

    Convolutions, matrix products and attention are counted, a multiplication with its addition as two; every batch of a
    run has the same size, so one stands for all.
    """

    def __init__(self) -> None:
        self.flop_per_batch: int | None = None
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin with the first batch."""
        if self.flop_per_batch is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End with the first batch."""
        if self._counter is not None:
            self.flop_per_batch = self._counter.get_total_flops()
            self._stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave nothing behind that counts on."""
        self._stop()

    def _stop(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def facts(self, trainer: L.Trainer, minutes: float) -> dict[str, Any]:
        """Hours and arithmetic of the whole run, earlier sittings included.

        Args:
            trainer: has finished.
            minutes: of the run.

        Returns:
            `compute_hours` (minutes times devices), `compute_device` (GPU, or the CPU's core), and `flop` of all
            processes, None where no batch was trained on in this sitting.
        """
        is_cpu = trainer.strategy.root_device.type == "cpu"
        # Processes on one CPU share its cores; each GPU belongs to one process.
        devices = _num_cores() if is_cpu else trainer.world_size
        num_batches = trainer.global_step * trainer.accumulate_grad_batches * trainer.world_size
        return {
            "compute_hours": float(f"{minutes / 60 * devices:.4g}"),
            "compute_device": "CPU core" if is_cpu else "GPU",
            "flop": None if self.flop_per_batch is None else self.flop_per_batch * num_batches,
        }


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
