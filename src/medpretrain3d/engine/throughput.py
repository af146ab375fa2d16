"""A callback that monitors training: throughput, waiting for data and peak memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch

from medpretrain3d.engine.distributed import numbers_to_log
from medpretrain3d.memory import peak_bytes


@dataclass(frozen=True)
class TrainedOn:
    """Samples of all processes that were trained on, and the time of this process that it took."""

    num_samples: int = 0
    waited_s: float = 0.0
    """For batches."""
    computed_s: float = 0.0

    def __sub__(self, earlier: TrainedOn) -> TrainedOn:
        """Return what came after an earlier moment."""
        return TrainedOn(
            self.num_samples - earlier.num_samples,
            self.waited_s - earlier.waited_s,
            self.computed_s - earlier.computed_s,
        )

    @property
    def samples_per_s(self) -> float:
        """Samples per second; validation is not counted."""
        return self.num_samples / max(self.waited_s + self.computed_s, 1e-9)

    @property
    def data_wait_share(self) -> float:
        """Share of the time that went into waiting for batches."""
        return self.waited_s / max(self.waited_s + self.computed_s, 1e-9)


class Throughput(L.Callback):
    """Logs samples per second, the share of time spent waiting for data, and peak memory.

    `trained_on` counts since the beginning of this sitting.

    Args:
        window: batches over which the logged figures are averaged.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self.trained_on = TrainedOn()
        self._at_last_log = TrainedOn()
        self._num_batches = 0
        self._last_end: float | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The time since the last step ended was spent waiting for this batch."""
        self._start = time.perf_counter()
        if self._last_end is not None:
            waited_s = self.trained_on.waited_s + self._start - self._last_end
            self.trained_on = replace(self.trained_on, waited_s=waited_s)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log when the window is full."""
        self._last_end = time.perf_counter()
        self.trained_on = replace(
            self.trained_on,
            num_samples=self.trained_on.num_samples + _batch_size(batch) * trainer.world_size,
            computed_s=self.trained_on.computed_s + self._last_end - self._start,
        )
        self._num_batches += 1
        if self._num_batches % self.window == 0:
            lately, self._at_last_log = self.trained_on - self._at_last_log, self.trained_on
            measured = {
                "perf/samples_per_s": lately.samples_per_s,
                "perf/data_wait_share": lately.data_wait_share,
                "perf/peak_memory_gb": peak_memory_gb(module.device),
            }
            module.log_dict(numbers_to_log(module, measured))

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Validation is not waiting for data."""
        self._last_end = None


def _batch_size(batch: Any) -> int:
    first = batch["seed" if "seed" in batch else "image"] if isinstance(batch, dict) else batch[0]
    return len(first)


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory this process has held: of its GPU, or of the host where it computes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_bytes() / 2**30
