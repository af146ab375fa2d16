"""A callback that monitors training: throughput, waiting for data and peak memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import lightning as L
import torch

from medpretrain3d.engine.distributed import numbers_to_log


class Throughput(L.Callback):
    """Logs samples per second, the share of time spent waiting for data, and peak memory.

    Args:
        window: steps over which the figures are averaged.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self._last_end: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._waited = self._busy = 0.0
        self._samples = self._steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The time since the last step ended was spent waiting for this batch."""
        self._start = time.perf_counter()
        if self._last_end is not None:
            self._waited += self._start - self._last_end

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log when the window is full."""
        self._last_end = time.perf_counter()
        self._busy += self._last_end - self._start
        self._samples += _batch_size(batch) * trainer.world_size
        self._steps += 1
        if self._steps == self.window:
            elapsed = self._waited + self._busy
            measured = {
                "perf/samples_per_s": self._samples / elapsed,
                "perf/data_wait_share": self._waited / elapsed,
                "perf/peak_memory_gb": _peak_memory_gb(module.device),
            }
            module.log_dict(numbers_to_log(module, measured))
            self._reset()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Validation is not waiting for data."""
        self._last_end = None


def _batch_size(batch: Any) -> int:
    first = batch["seed" if "seed" in batch else "image"] if isinstance(batch, dict) else batch[0]
    return len(first)


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
