"""Optimisers and learning-rate schedules, as the published recipes write them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated. The defaults are the CNN recipe: SGD with Nesterov momentum and polynomial decay."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 1e-2
    """Peak learning rate."""
    weight_decay: float = 3e-5
    momentum: float = 0.99
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup_steps: int = 0
    """Linear ramp from 0 to the peak."""
    backbone_lr_scale: float = 1.0
    """Factor on the learning rate of the backbone; below 1 it moves more slowly than the freshly initialised parts."""


def configure(model: nn.Module, config: OptimConfig, num_steps: int) -> dict[str, Any]:
    """Optimiser and per-step schedule in the form Lightning expects of `configure_optimizers`.

    Args:
        model: trainable module; parameters below a child named `backbone` take `backbone_lr_scale`.
        config: the recipe.
        num_steps: optimiser steps of the whole run.

    Raises:
        UserError: more warm-up than steps.
    """
    if not 0 <= config.warmup_steps < num_steps:
        raise UserError(
            f"optim.warmup_steps {config.warmup_steps} and trainer.max_steps {num_steps}: the warm-up must be shorter "
            "than the run; lower warmup_steps or train longer"
        )
    groups = _groups(model, config)
    optimiser: torch.optim.Optimizer
    if config.name == "sgd":
        optimiser = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True)
    else:
        optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(step, config, num_steps))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def lr_factor(step: int, config: OptimConfig, num_steps: int) -> float:
    """Share of the peak learning rate at an optimiser step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / (num_steps - config.warmup_steps))
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return (1 - progress) ** 0.9


def _groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Norms and biases are not decayed: pulling a scale to zero regularises nothing.
            key = ("backbone" in name.split("."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (config.backbone_lr_scale if in_backbone else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in groups.items()
    ]
