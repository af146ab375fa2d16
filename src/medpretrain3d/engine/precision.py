"""The precision of a run: as typed, as it began, or as suits its machine; the same on all its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins import Precision as PrecisionPlugin

from medpretrain3d.documents import read_yaml
from medpretrain3d.engine.bf16_weights import BF16Weights
from medpretrain3d.engine.checkpoint_files import has_checkpoints
from medpretrain3d.engine.continuation import accelerator_of
from medpretrain3d.engine.restart import is_thrown_away
from medpretrain3d.engine.run import RunConfig, RunFile
from medpretrain3d.errors import UserError
from medpretrain3d.precision.choice import PrecisionChoice, choose_precision, note_on
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import (
    TrainingPrecision,
    network_precision,
    precision_name,
    training_precision_name,
)
from medpretrain3d.run_metadata import RunMetadata

UNDECIDED = PrecisionChoice("32-true", "until the first process says")
"""Of all processes but the first."""


def precision_of_run(trainer: Mapping[str, Any], run: RunConfig) -> PrecisionChoice:
    """Return the precision of a run: that of its options, else that which it began with, else what suits the device.

    Args:
        trainer: options of the trainer.
        run: whose folder may hold an earlier sitting.

    Raises:
        UserError: a precision that there is not.
    """
    device = device_of(trainer)
    if trainer.get("precision") is not None:
        typed = training_precision_name(trainer["precision"], "trainer.precision")
        note = note_on(network_precision(typed), device)
        return PrecisionChoice(typed, _with_note("as trainer.precision says", note))
    began = precision_begun_with(run)
    if began is None:
        return choose_precision(device)
    suited = choose_precision(device)
    note = "" if suited.precision == began else f"a run that began here would take {suited.precision}: {suited.reason}"
    return PrecisionChoice(began, _with_note("as this run began", note))


def precision_begun_with(run: RunConfig) -> TrainingPrecision | None:
    """Return the precision of the run in a folder; None where none goes on there.

    Runs of earlier versions took bf16 where there was a GPU, and fp32 where there was none.
    """
    if is_thrown_away(run):
        return None
    known = RunFile(run.folder).read()
    if not (known.finished or has_checkpoints(run.checkpoints)):
        return None
    for place, name in (("run.json", known.precision), ("config.yaml", _written(run.folder / "config.yaml"))):
        if name is not None:
            return training_precision_name(name, str(run.folder / place))
    return "32-true" if (known.machine or "no GPU").endswith("no GPU") else "bf16-mixed"


def precision_metadata(choice: PrecisionChoice) -> RunMetadata:
    """Return what `run.json` says of it."""
    return RunMetadata(precision=choice.precision, bf16_speed_ratio=choice.bf16_speed_ratio)


def precision_plugin(precision: TrainingPrecision, device_type: str) -> PrecisionPlugin:
    """Return Lightning's plugin for a precision, on the CPU with this package's context.

    Lightning makes bf16 of fp16 on the CPU, and warns.
    """
    if precision == "32-true":
        return PrecisionPlugin()
    if precision == "bf16-true":
        return BF16Weights(device_type)
    return MixedPrecisionOnCPU(precision, "cpu") if device_type == "cpu" else MixedPrecision(precision, device_type)


def device_of(trainer: Mapping[str, Any]) -> torch.device:
    """Return the kind of device that the options of a trainer lead to."""
    name = accelerator_of(trainer.get("accelerator"))
    return torch.device({"gpu": "cuda", "tpu": "xla"}.get(name, name))


class MixedPrecisionOnCPU(MixedPrecision):
    """Lightning's mixed precision with the context that prediction has too."""

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Run a step of training, validation or test."""
        with autocast(torch.device("cpu"), precision_name(self.precision), cache_enabled=False):
            yield


class SamePrecision(L.Callback):
    """Gives all processes the precision of the first: theirs may be other machines, and would choose for themselves."""

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Ask the first process, before anything is computed."""
        own = trainer.precision
        agreed = trainer.strategy.broadcast(own)
        if agreed != own:
            trainer.strategy.precision_plugin = precision_plugin(
                training_precision_name(agreed), trainer.strategy.root_device.type
            )


def _written(config: Path) -> str | None:
    """Return `trainer.precision` of the configuration of a run; None where it is not there or cannot be read."""
    try:
        trainer = read_yaml(config, "").get("trainer") or {}
    except (UserError, AttributeError):
        return None
    return trainer.get("precision") if isinstance(trainer, dict) else None


def _with_note(reason: str, note: str) -> str:
    return f"{reason}; {note}" if note else reason
