"""Lines by which a person follows a run in a job's log, without a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from medpretrain3d.engine.optimizer import current_lr
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.throughput import Throughput, TrainedOn, peak_memory_gb
from medpretrain3d.run_metadata import RunMetadata

EVERY_S = 60.0
SHOWN = ("val/", "probe/")
"""Beginnings of the names of what a validation measures."""


class ProgressLines(L.Callback):
    """Says how training goes: after the first step, then every minute, and after each validation.

    The loss is the mean over the batches of the first process since the line before. A line a minute is all that waits
    for a GPU here.

    Args:
        throughput: counts samples and the waiting for data; comes before this.
        every_s: seconds from one line to the next.
    """

    def __init__(self, throughput: Throughput, every_s: float = EVERY_S) -> None:
        self._throughput = throughput
        self._every_s = every_s
        self._said_s: float | None = None
        self._losses: Tensor | None = None
        self._num_losses = 0
        self._at_last_line = TrainedOn()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Count from here."""
        self._begun_s, self._begun_step = time.monotonic(), trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the rate of the step, which the schedule moves on at its end."""
        self._lr, self._step = current_lr(trainer.optimizers[0]), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say it once a minute, when a step is whole."""
        if not trainer.is_global_zero:
            return
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # by which Lightning divides
        self._losses = loss if self._losses is None else self._losses + loss
        self._num_losses += 1
        if trainer.global_step == self._step:
            return
        now_s = time.monotonic()
        if self._said_s is None:  # the first step sets up kernels and workers: what is left is judged by the others
            self._first_end_s = now_s
        elif now_s - self._said_s < self._every_s:
            return
        self._said_s = now_s
        run_log.say(self._line(trainer, module.device, now_s))
        self._losses, self._num_losses, self._at_last_line = None, 0, self._throughput.trained_on

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the time."""
        self._validation_begun_s = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say what was measured."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        took = duration(time.monotonic() - self._validation_begun_s)
        measured = {name: value for name, value in trainer.callback_metrics.items() if name.startswith(SHOWN)}
        run_log.say(f"step {trainer.global_step:,}: validation took {took}: {_numbers(measured)}")

    def _line(self, trainer: L.Trainer, device: torch.device, now_s: float) -> str:
        assert self._losses is not None
        step, last = trainer.global_step, trainer.max_steps
        lately = self._throughput.trained_on - self._at_last_line
        num_timed = step - self._begun_step - 1
        left_s = (now_s - self._first_end_s) / num_timed * (last - step) if num_timed else math.nan
        parts = [
            f"step {step:,} of {last:,} ({100 * step / last:.0f} %)",
            f"loss {self._losses.item() / self._num_losses:.4g}",
            f"lr {self._lr:.3g}",
            f"{lately.samples_per_s:.3g} samples/s",
            f"{100 * lately.data_wait_share:.0f} % of the time waiting for data",
            f"{peak_memory_gb(device):.1f} GiB {'of the GPU' if device.type == 'cuda' else 'of memory'} at most",
            f"{duration(now_s - self._begun_s)} trained",
            f"about {duration(left_s)} left" if num_timed else "time left not known yet",
        ]
        return ", ".join(parts)


def start_line(
    metadata: RunMetadata, run: RunConfig, trainer: L.Trainer, batch_size: int, wandb: str, resume: Path | None
) -> str:
    """Return what is trained, where, on what, for how long and from where on.

    Args:
        metadata: of the run as it begins.
        run: its place.
        trainer: about to fit.
        batch_size: samples of one process at once.
        wandb: the mode of its tracking.
        resume: the checkpoint that it goes on from.
    """
    what = metadata.detector or metadata.method or "?"
    start = f", encoder {metadata.method}" if metadata.detector else ""
    num_cases = metadata.num_pretrain_volumes if metadata.stage == "pretrain" else metadata.num_train_cases
    fold = "" if metadata.fold is None else f" fold {metadata.fold}"
    device, accumulated = trainer.strategy.root_device, trainer.accumulate_grad_batches
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else f"CPU with {torch.get_num_threads()} thread(s) each"
    nodes = f" on {trainer.num_nodes} nodes" if trainer.num_nodes > 1 else ""
    parts = [
        f"{metadata.stage}: {what} of {metadata.backbone}"
        f" ({(metadata.params or 0) / 1e6:.3g} M parameters{start}) into {run.folder}",
        f"data {metadata.dataset or metadata.corpus}{fold}, {num_cases} training cases",
        f"{trainer.world_size} x {name}{nodes}",
        f"batch {batch_size * trainer.world_size * accumulated} ({batch_size} a process x {trainer.world_size} x "
        f"{accumulated} accumulated)",
        f"precision {metadata.precision}",
        f"{trainer.max_steps:,} steps",
        f"wandb {wandb}",
        f"continuing an interrupted run from {resume}" if resume else "from the beginning",
        f"begun {time.strftime('%Y-%m-%d %H:%M:%S')}",
    ]
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as people say it, with two units at most.

    Example:
        >>> from medpretrain3d.engine.progress_lines import duration
        >>> duration(3.21), duration(75), duration(4000), duration(200000)
        ('3.2 s', '1 min 15 s', '1 h 7 min', '2 d 8 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {below}"
    return "1 min 0 s"


def _numbers(measured: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {float(value):.4g}" for name, value in measured.items()) or "nothing was measured"
