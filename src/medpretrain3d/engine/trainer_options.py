"""Options of Lightning's trainer that are compared before it is made: it takes some that train nothing."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.accelerators import AcceleratorRegistry

from medpretrain3d.command_line.launched import check_launch
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.command_line.trainer import OPTIONS, check_trainer
from medpretrain3d.engine.continuation import accelerator_of, num_devices
from medpretrain3d.engine.distributed import SHARDED
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.errors import UserError
from medpretrain3d.values import Seed, check_value


def check_options(config: Mapping[str, Any]) -> None:
    """Compare what a configuration says of the trainer and the seed.

    Raises:
        UserError: names the first option that does not fit.
    """
    trainer = config["trainer"]
    check_trainer(trainer)
    for name, hint in OPTIONS.items():
        if name in trainer:
            check_value("trainer", name, trainer[name], hint)
    if not isinstance(config.get("seed_everything"), bool):
        check_value("configuration", "seed_everything", config.get("seed_everything"), Seed | None)
    if str(trainer.get("strategy") or "").startswith("fsdp") and trainer["strategy"] != SHARDED:
        raise UserError(
            f"trainer: got strategy {trainer['strategy']}, whose processes write files of their shards; wanted fsdp2, "
            "which writes whole ones"
        )
    _check_hardware(trainer.get("devices"), trainer.get("accelerator"))
    if trainer.get("devices") in (0, "0", []):
        raise UserError(f"trainer: got devices {trainer['devices']}, wanted a number >= 1, -1 for all, or auto")
    num, most = num_devices(trainer.get("devices"), trainer.get("accelerator")), max(8, os.cpu_count() or 1)
    if num > most and not torch.cuda.is_available():
        raise UserError(f"trainer: got devices {trainer['devices']}, wanted at most {most} processes on this CPU")
    check_launch(num, int(trainer.get("num_nodes") or 1))


def _check_hardware(devices: Any, accelerator: Any) -> None:
    """Refuse words that Lightning and torch would look at only later, and not in a line."""
    if isinstance(devices, str) and not re.fullmatch(r"auto|-1|\d+|\d+( *, *\d+)* *,?", devices):
        raise UserError(
            f"trainer: got devices '{devices}', wanted a number >= 1, numbers of GPUs as in [0, 1], -1 for all, or auto"
        )
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if not isinstance(accelerator, str) or accelerator in known:
        return
    kind, _, number = accelerator.partition(":")
    hint = f"; set trainer.accelerator to {kind} and trainer.devices to [{number}]" if number and kind in known else ""
    raise UserError(
        f"trainer: got accelerator '{accelerator}', wanted one of {', '.join(known)}"
        f"{hint or did_you_mean(accelerator, known)}"
    )


def trainer_options_used(trainer: Mapping[str, Any], run: RunConfig) -> dict[str, Any]:
    """Return what is decided in place of options that were not given, or whatever they say.

    Args:
        trainer: options of the trainer.
        run: whose folder is written to.
    """
    accelerator = trainer.get("accelerator")
    used = {
        "default_root_dir": str(run.folder),
        "use_distributed_sampler": False,  # batches are a function of the position, rank included
        "enable_model_summary": False,
        "devices": num_devices(trainer.get("devices"), accelerator),
        "accelerator": "cuda" if accelerator_of(accelerator) == "gpu" else accelerator_of(accelerator),
    }
    return used


def trainer_help(parser: ArgumentParser) -> str:
    """Return all options of Lightning's trainer, a line or two each."""
    lines = ["options of Lightning's trainer, as --trainer.NAME VALUE:"]
    for action in parser._actions:
        if str(action.dest).startswith("trainer.") and not str(action.dest).endswith(".help"):
            text = " ".join(str(action.help or "").split()).partition(". ")[0].rstrip(".")
            option = f"  --{action.dest}".ljust(42)
            wrapped = textwrap.wrap(f"{text} (default {action.default})", 120 - 42)
            lines.append(option + f"\n{' ' * 42}".join(wrapped))
    return "\n".join(lines)
