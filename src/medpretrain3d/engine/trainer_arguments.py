"""Arguments of Lightning's trainer: what a recipe asks for, and what a stage adds or decides."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers.logger import Logger

from medpretrain3d.engine.bf16_weights import check_bf16_weights
from medpretrain3d.engine.checkpoint_files import CheckpointFiles
from medpretrain3d.engine.precision import device_of, precision_plugin
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.strategy import strategy_used
from medpretrain3d.engine.trainer_options import trainer_options_used
from medpretrain3d.precision.names import TrainingPrecision

FOUND_BY_LIGHTNING = ("devices", "accelerator")
"""What the trainer finds itself."""


def trainer_arguments(
    asked: Mapping[str, Any],
    run: RunConfig,
    precision: TrainingPrecision,
    callbacks: Sequence[L.Callback],
    loggers: Sequence[Logger],
    has_static_shapes: bool,
) -> dict[str, Any]:
    """Return what is given to the trainer beside, or in place of, the options of a recipe.

    Args:
        asked: options of the trainer.
        run: whose folder is written to.
        precision: of the run.
        callbacks: of the recipe and of the stage.
        loggers: of the stage.
        has_static_shapes: whether all batches of training have the same shape.

    Raises:
        UserError: callbacks or a strategy that the precision does not go with.
    """
    used = {name: value for name, value in trainer_options_used(asked, run).items() if name not in FOUND_BY_LIGHTNING}
    arguments: dict[str, Any] = {"callbacks": list(callbacks), "logger": list(loggers), **used, "precision": None}
    if asked.get("enable_progress_bar") is None and not sys.stdout.isatty():
        arguments["enable_progress_bar"] = any(isinstance(one, ProgressBar) for one in callbacks)
    arguments["strategy"] = strategy_used(asked)
    if getattr(arguments["strategy"], "is_sharded", False):
        arguments["inference_mode"] = False  # whose tensors FSDP2 would go on to train with
    device_type = device_of(asked).type
    if device_type == "cuda" and asked.get("benchmark") is None and not asked.get("deterministic"):
        arguments["benchmark"] = has_static_shapes  # else each new shape would be timed
    interval = asked.get("val_check_interval")
    if isinstance(interval, int):  # steps of the optimizer, as everywhere; Lightning counts batches
        arguments["val_check_interval"] = interval * (asked.get("accumulate_grad_batches") or 1)
    plugins = asked.get("plugins") or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    arguments["plugins"] = [*plugins, precision_plugin(precision, device_type), CheckpointFiles()]
    if precision == "bf16-true":
        check_bf16_weights(list(callbacks), asked.get("strategy"))
    return arguments
