"""Options of Lightning's trainer of which it takes values that train nothing: their types, and what goes together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from medpretrain3d.errors import UserError
from medpretrain3d.values import Count, NonNegative, PositiveShare, Whole

Devices = Annotated[int, Ge(-1)] | list[Whole] | str
Limit = Annotated[float, Ge(0), Le(1)] | Whole | None

OPTIONS: dict[str, Any] = {
    "max_steps": Count,
    "max_epochs": Literal[-1] | Count | None,
    "fast_dev_run": Literal[False, 0],  # has another number of steps, and writes no checkpoint
    "accumulate_grad_batches": Count,
    "val_check_interval": Count | PositiveShare | str | None,
    "check_val_every_n_epoch": Count | None,
    "gradient_clip_val": NonNegative | None,
    "log_every_n_steps": Whole | None,
    "num_nodes": Count,
    "devices": Devices,
    "precision": Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "32", "bf16", "16", 32, 16] | None,
    "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "limit_train_batches": Literal[1.0] | None,  # how long to train is max_steps
    "limit_val_batches": Limit,
    "limit_test_batches": Limit,
    "overfit_batches": Literal[0, 0.0],  # its batches are not those of a position
}
TRAINER = "trainer."


def check_steps(options: Mapping[str, Any], source: str) -> None:
    """Refuse a whole configuration whose steps do not go together, as its stage would once it began.

    Args:
        options: of the resolved recipe, by keys with dots.
        source: where they are from, for the error.

    Raises:
        UserError: see `check_trainer` and `check_warmup`.
    """
    trainer = {key.removeprefix(TRAINER): value for key, value in options.items() if key.startswith(TRAINER)}
    check_trainer(trainer, source)
    warmup, sawtooth = (options.get(f"model.optim.{name}_steps") or 0 for name in ("warmup", "sawtooth"))
    steps = trainer["max_steps"]
    if isinstance(warmup, int) and isinstance(sawtooth, int) and isinstance(steps, int):
        check_warmup(warmup, sawtooth, steps, source)


def check_warmup(warmup_steps: int, sawtooth_steps: int, num_steps: int, source: str = "") -> None:
    """Refuse ramps that a recipe asks for and that do not end within the run.

    Args:
        warmup_steps: of the linear ramp.
        sawtooth_steps: in which the encoder rests before it.
        num_steps: optimizer steps of the run.
        source: where they are from, for the error.

    Raises:
        UserError: they are as many or more.
    """
    if warmup_steps + sawtooth_steps >= num_steps:
        asked = f"optim.warmup_steps {warmup_steps}"
        asked += f" after sawtooth_steps {sawtooth_steps}" if sawtooth_steps else ""
        raise UserError(
            f"{asked} and trainer.max_steps {num_steps}: the warm-up must be shorter "
            f"than the run; lower it or train longer{f' ({source})' if source else ''}"
        )


def check_trainer(trainer: Mapping[str, Any], source: str = "") -> None:
    """Refuse options of the right types with which nothing is trained, validated, or tested as a whole.

    Args:
        trainer: its options.
        source: where they are from, for the error.

    Raises:
        UserError: names the first that does not fit.
    """
    told = f" ({source})" if source else ""
    steps, interval = trainer.get("max_steps"), trainer.get("val_check_interval")
    if steps in (None, -1):
        raise UserError(f"trainer.max_steps is not set; say how many optimiser steps to train{told}")
    loggers = [value for key, value in trainer.items() if key.partition(".")[0] == "logger"]
    if any(value not in (None, True) for value in loggers):
        raise UserError(
            "trainer.logger: a run writes metrics.csv, and tells of itself elsewhere as run.wandb, run.tensorboard and "
            f"run.mlflow say; use these, and take it away{told}"
        )
    limit = trainer.get("limit_test_batches")
    if limit is not None and (limit != 1 or isinstance(limit, int)):  # 1 is a batch, 1.0 is all
        raise UserError(
            f"trainer: got limit_test_batches {limit}, wanted none: a run is tested on all test "
            f"cases of its split; choose fewer there{told}"
        )
    if trainer.get("limit_val_batches") == 0:
        return
    every = trainer.get("check_val_every_n_epoch")
    if isinstance(every, int) and every > 1:
        raise UserError(
            f"trainer: got check_val_every_n_epoch {every}, so that nothing is ever validated: a run is one epoch; "
            f"wanted val_check_interval, the steps between validations, or limit_val_batches 0 for none{told}"
        )
    if isinstance(interval, int) and isinstance(steps, int) and interval > steps:
        raise UserError(
            f"trainer: got val_check_interval {interval} and max_steps {steps}, so that nothing is ever validated; "
            f"wanted at most {steps}, or limit_val_batches 0 to train without validation{told}"
        )
