"""What the run of a recipe needs: memory of one process, arithmetic, hours and voxels from the disk. All computed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medpretrain3d.backbones.base import sharded_blocks
from medpretrain3d.command_line.composition import ARGUMENTS, CLASS
from medpretrain3d.command_line.signatures import is_below, signatures
from medpretrain3d.errors import UserError
from medpretrain3d.planning.recipe_step import RecipeStep, recipe_step
from medpretrain3d.planning.training_memory import STATES, Setting, TrainingMemory, training_memory
from medpretrain3d.precision.names import TrainingPrecision, network_precision, training_precision_name
from medpretrain3d.precision.split_weights import split_weights

TFLOP_PER_S = {"A100": 35.0, "H200": 94.0}
"""Of ResEnc-L in mixed precision: published are 0.50 s for a step of nnU-Net on an A100, taken as two patches of 160^3,
and 0.31 s for two of 192^3 on an H200."""
ON_GPUS: TrainingPrecision = "bf16-mixed"
"""What a run takes on a GPU where its recipe says nothing."""
SHARDED = "fsdp2"


@dataclass(frozen=True)
class Requirements:
    """Memory of one process, and arithmetic of the run."""

    num_processes: int
    num_steps: int
    precision: TrainingPrecision
    is_checkpointed: bool | None
    """Whether activations are computed again in the backward pass; None where the backbone knows no such thing."""
    memory: TrainingMemory
    other_memory: TrainingMemory | None
    """With activations kept that are computed again, or computed again that are kept."""
    step_flop: int
    """Of all processes, forward and backward pass."""
    step_bytes: int
    """Voxels that a step of all processes reads, in the two bytes that they have in a store."""

    def hours(self, gpu: str) -> float:
        """Return the hours of the run on its GPUs.

        Args:
            gpu: a key of `TFLOP_PER_S`.
        """
        return self.step_flop * self.num_steps / (TFLOP_PER_S[gpu] * 1e12) / self.num_processes / 3600

    def read_mb_per_s(self, gpu: str) -> float:
        """Return what each GPU takes from the disk, uncompressed."""
        return self.step_bytes / 1e6 / (self.step_flop / (TFLOP_PER_S[gpu] * 1e12))


def requirements(config: Mapping[str, Any], stage: str) -> Requirements:
    """Compute what a run needs, without data and without a GPU.

    Args:
        config: composed of recipes and options, with `model`, `data` and `trainer`.
        stage: `pretrain` or `finetune`.

    Raises:
        UserError: the recipe lacks what decides it, or its step cannot be traced without values.
    """
    model, data, trainer = (dict(config.get(key) or {}) for key in ("model", "data", "trainer"))
    for key, table, name in (("data", data, "patch"), ("data", data, "batch_size"), ("trainer", trainer, "max_steps")):
        if table.get(name) is None:
            raise UserError(f"{stage}: the recipe says no {key}.{name}, wanted one; give --{key}.{name}")
    if not {"objective", "detector"} & model.keys():
        raise UserError(f"{stage}: the recipe names no model.objective and no model.detector; give a whole recipe")
    num_processes = _num_devices(trainer) * int(trainer.get("num_nodes") or 1)
    precision = training_precision_name(trainer.get("precision") or ON_GPUS, "trainer.precision")
    accumulated = int(trainer.get("accumulate_grad_batches") or 1)
    setting = training_setting(dict(model.get("optim") or {}), trainer, num_processes)

    def of(step: RecipeStep) -> tuple[TrainingMemory, int]:
        if precision == "bf16-true":
            split_weights(step.network)
        traced = step.trace(network_precision(precision))
        blocks = sharded_blocks(step.network)
        return training_memory(step.network, traced.activation_bytes, setting, blocks), traced.flop

    step = recipe_step(model, data)
    memory, flop = of(step)
    is_checkpointed, other_model = _other_checkpointing(model)
    voxels = sum(one.numel() for name, one in step.batch.items() if name in ("image", "base", "target"))
    return Requirements(
        num_processes=num_processes,
        num_steps=int(trainer["max_steps"]),
        precision=precision,
        is_checkpointed=is_checkpointed,
        memory=memory,
        other_memory=None if is_checkpointed is None else of(recipe_step(other_model, data))[0],
        step_flop=flop * accumulated * num_processes,
        step_bytes=2 * voxels * accumulated * num_processes,
    )


def _num_devices(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices") or 1
    if isinstance(devices, list):
        return len(devices)
    if not str(devices).isdecimal():
        raise UserError(f"trainer: got devices {devices}, which this machine would decide; give a number")
    return int(devices)


def training_setting(optim: Mapping[str, Any], trainer: Mapping[str, Any], num_processes: int) -> Setting:
    """Return how `model.optim` and `trainer` of a recipe train weights."""
    defaults = {name: ast.literal_eval(text) for name, text in signatures("OptimConfig")[0].defaults.items()}
    said = {**defaults, **optim}
    states = STATES[said["name"]]
    if said["name"] == "sgd":
        states *= bool(said["momentum"])
    callbacks = trainer.get("callbacks") or []
    named = [str(one.get(CLASS)) for one in callbacks if isinstance(one, Mapping)]
    return Setting(
        optimizer=said["name"],
        states=states + (said["name"] == "adamw" and bool(said["amsgrad"])),
        is_averaged=any(name.endswith("WeightAveraging") for name in named),
        num_shards=num_processes if trainer.get("strategy") == SHARDED else 1,
    )


def _other_checkpointing(value: Any) -> tuple[bool | None, Any]:
    """Return whether the backbone of a model checkpoints, and the model with the other choice."""
    if not isinstance(value, Mapping):
        return None, value
    found = signatures(str(value.get(CLASS)).rpartition(".")[2]) if CLASS in value else ()
    arguments = dict(value.get(ARGUMENTS) or {})
    if any(is_below(one, "Backbone") and "checkpointing" in one.parameters for one in found):
        is_on = bool(arguments.get("checkpointing", False))
        return is_on, {**value, ARGUMENTS: {**arguments, "checkpointing": not is_on}}
    changed = {key: _other_checkpointing(one) for key, one in value.items()}
    known = [is_on for is_on, _ in changed.values() if is_on is not None]
    return (known[0] if known else None), {key: one for key, (_, one) in changed.items()}
