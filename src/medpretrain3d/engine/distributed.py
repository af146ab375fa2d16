"""Communication between the processes of a distributed run."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from medpretrain3d.command_line.launched import counts_tasks
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.errors import UserError
from medpretrain3d.processes import first_process

Value = TypeVar("Value")

SHARDED = "fsdp2"
"""The name by which `ShardedDDP` is asked for; Lightning's `fsdp` knows neither a CPU nor whole files."""


def trainer_as_asked(asked: Mapping[str, Any]) -> L.Trainer:
    """Return a trainer that is thrown away, which knows the number of this process among those of a run.

    It is asked before the real one exists: launchers name ranks in different variables, and which of them count depends
    on the devices. `SLURM_LOCALID`, for one, says nothing of runs on one device each that share a job step.

    Args:
        asked: arguments of the trainer.

    Raises:
        UserError: devices that are not there, or that do not fit what a cluster says.
    """
    deciding = ("accelerator", "devices", "num_nodes", "strategy", "plugins")
    known = {name: copy.deepcopy(asked[name]) for name in deciding if asked.get(name) is not None}
    if known.get("strategy") == SHARDED:
        known["strategy"] = "ddp"  # which Lightning knows
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    if counts_tasks() and (asked.get("num_nodes") or 1) == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # SLURM's name of the node need not have an address
    try:
        return L.Trainer(**known, **quiet)
    except (RuntimeError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())[:400]}") from error


def gather_by_case(results: dict[str, Value]) -> dict[str, Value]:
    """Return results of all processes, by case id and in the order of the ids; each process gets all of them.

    Metrics over whole volumes are computed on this union, so that they do not depend on the number of processes.
    """
    parts: list[dict[str, Value] | None] = [results]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, results)
    merged = {case: value for part in parts if part is not None for case, value in part.items()}
    return dict(sorted(merged.items()))


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers that the first one has; all of them call this.

    DDP does so before each step alone. Behind the last one statistics of batch norms are those of the samples that a
    process saw there, and a network that looks at whole volumes on its own would be another one on each.
    """
    for buffer in module.buffers():
        buffer.copy_(first_process(buffer))


def numbers_to_log(module: L.LightningModule, values: Mapping[str, float]) -> dict[str, Tensor]:
    """Return numbers as Lightning keeps them, on the device; it would itself wait for each to get there."""
    return {name: torch.tensor(value).to(module.device, non_blocking=True) for name, value in values.items()}


def is_read(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Return whether numbers on the device are read after this step: always on a CPU, else when steps are logged.

    To read one is to wait until the device has done all that it was told.
    """
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
    return module.device.type == "cpu" or bool(interval and trainer.global_step % interval == 0)


def show_loss(module: L.LightningModule, loss: Tensor) -> None:
    """Show a loss in the progress bar, where numbers are read; `prog_bar=True` would read it after every step."""
    if is_read(module.trainer, module):
        module.trainer.progress_bar_metrics["train/loss"] = loss.item()


def rank_zero_print(text: str) -> None:
    """Print on the first process only, and keep the line in the log of the run."""
    run_log.say(text)
