"""Optimisers and learning-rate schedules, as the published recipes write them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.command_line.trainer import check_warmup
from medpretrain3d.engine.fused import stay_fused
from medpretrain3d.errors import UserError
from medpretrain3d.schedules import cosine
from medpretrain3d.values import NonNegative, Positive, Share, ShareBelowOne, Whole, check_fields

WARMUP_STEPS = 1_000
"""Of a run that says nothing of it, as in detectron2."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and LR schedule. The defaults fine-tune a CNN: SGD with Nesterov momentum, a ramp and polynomial decay.

    They are those of the published Retina U-Net, but for a shorter ramp. With a momentum of 0.99, as segmentation and
    pretraining take it, and no ramp the box head of a fresh detector can run away: 219 of 219 positives were decoded at
    the coder's limit after 120 steps on phantoms, and stayed there. Ramps of a tenth or a third of so short a run did
    not prevent it, with either momentum: what counts is how fast the rate grows.

    Two published ways of fine-tuning: *ramp* is `warmup_steps` for all layers at once; *sawtooth* ramps up what lies
    outside the encoder alone for `sawtooth_steps`, then all layers over `warmup_steps`.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: NonNegative = 1e-2
    """Peak learning rate."""
    weight_decay: NonNegative = 3e-5
    weight_decay_end: NonNegative | None = None
    """To which a cosine leads from `weight_decay`."""
    momentum: Share = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Of SGD."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """Of AdamW."""
    eps: Positive = 1e-8
    """Of AdamW."""
    amsgrad: bool = False
    """Of AdamW: divide by the largest second moment so far."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """After the warm-up."""
    warmup_steps: Whole | None = None
    """Linear ramp to the peak; None is `WARMUP_STEPS`. A shorter run ends on the ramp."""
    warmup_lr: NonNegative = 0.0
    """Where ramps begin. A ramp from 0 leaves out the step of rate 0."""
    sawtooth_steps: Whole = 0
    """Before it, the encoder rests and others ramp up."""
    backbone_lr_scale: NonNegative = 1.0
    """Factor on the learning rate of the encoder. Below 1 it moves more slowly than the freshly initialised parts."""
    transferred_lr_scale: NonNegative = 1.0
    """Factor on that of neck and heads of a file."""
    fresh_lr_scale: NonNegative = 1.0
    """Factor on that of all others outside of the encoder."""
    layer_decay: Positive = 1.0
    """Factor per depth group from the encoder's output."""  # the last group has it once, the first n times
    embed_lr_scale: NonNegative = 1.0
    """Factor on that of a transformer's patch embedding."""
    frozen_groups: Whole = 0
    """Depth groups of the encoder that rest, from its input."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_warmup_steps(self) -> int:
        """Steps of the ramp to the peak."""
        return WARMUP_STEPS if self.warmup_steps is None else self.warmup_steps


def configure(
    model: nn.Module, config: OptimConfig, num_steps: int, transferred: Collection[str] = ()
) -> dict[str, Any]:
    """Optimiser and per-step schedule in the form Lightning expects of `configure_optimizers`.

    Args:
        model: trainable module; the encoder inside its `backbone` takes the options that speak of an encoder.
        config: the recipe.
        num_steps: optimiser steps of the whole run.
        transferred: names of the model's parameters outside of the encoder that were taken from a file.

    Raises:
        UserError: more warm-up than steps, or options for an encoder where there is none.
    """
    if not config.lr and config.warmup_lr:
        raise UserError(f"optim.lr 0 and optim.warmup_lr {config.warmup_lr}: a ramp ends at lr; set warmup_lr to 0 too")
    check_warmup(config.warmup_steps or 0, config.sawtooth_steps, num_steps)
    places = _places(model, config, transferred)
    groups = [
        {
            "params": parameters,
            "lr": config.lr * place.lr_scale,
            "weight_decay": weight_decay(0, config, num_steps, place.is_decayed),
        }
        for place, parameters in places.items()
    ]
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        optimizer = torch.optim.SGD(groups, config.lr, config.momentum, nesterov=nesterov, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, config.lr, config.betas, config.eps, amsgrad=config.amsgrad, fused=True)
    stay_fused(optimizer)
    factors: list[Callable[[int], float]] = [
        partial(lr_factor, config=config, num_steps=num_steps, is_encoder=place.is_encoder) for place in places
    ]
    decays: list[Callable[[int], float]] = [
        partial(weight_decay, config=config, num_steps=num_steps, is_decayed=place.is_decayed) for place in places
    ]
    scheduler = Schedules(optimizer, factors, decays)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Schedules(torch.optim.lr_scheduler.LambdaLR):
    """Learning rates, and the weight decay of the groups that are decayed.

    Args:
        optimizer: of the groups.
        factors: on the peak rate of each group, functions of the step.
        weight_decays: of each group, functions of the step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        factors: list[Callable[[int], float]],
        weight_decays: list[Callable[[int], float]],
    ) -> None:
        self.weight_decays = weight_decays
        super().__init__(optimizer, factors)

    def step(self, epoch: int | None = None) -> None:
        """Set what the next step takes."""
        super().step(epoch)
        self.set_weight_decay()

    def set_weight_decay(self) -> None:
        """Set the weight decay of the next step alone."""
        for group, decay in zip(self.optimizer.param_groups, self.weight_decays, strict=True):
            group["weight_decay"] = decay(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedules stand; what they are follows from the recipe."""
        return {name: value for name, value in super().state_dict().items() if name != "weight_decays"}


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate of the parts that no factor slows down: of the group with the highest peak.

    In both stages: what lies outside of the encoder, and the encoder with it unless it is scaled, decayed or resting.
    """
    rates = [(group.get("initial_lr", group["lr"]), group["lr"]) for group in optimizer.param_groups]
    return float(max(rates)[1])


def freeze(model: nn.Module, config: OptimConfig) -> None:
    """Take the first `frozen_groups` depth groups of the encoder out of training.

    To be called before the model is wrapped for several processes, which otherwise wait for these gradients.

    Raises:
        UserError: no encoder, or nothing of it would be left to train.
    """
    if not config.frozen_groups:
        return
    groups = _encoder_groups(model)
    if not 0 < config.frozen_groups < len(groups):
        raise UserError(
            f"optim.frozen_groups {config.frozen_groups}: the encoder has {len(groups)} depth groups; "
            f"{f'freeze 0 .. {len(groups) - 1}' if groups else 'the model holds no backbone'}"
        )
    for group in groups[: config.frozen_groups]:
        for parameter in group:
            parameter.requires_grad_(False)


def rests_at_random(config: OptimConfig, init_from: str | None, init_groups: int | None = None) -> str:
    """Return a warning where depth groups rest whose values are of no file; empty where none do.

    Args:
        config: how many rest.
        init_from: where weights are read.
        init_groups: how many depth groups are taken of it; None takes all.
    """
    if init_from is None:
        taken, reason = 0, "no model.init_from, so these groups keep random values; name an encoder"
    elif init_groups is not None:
        taken, reason = init_groups, f"model.init_groups {init_groups}, so some keep random values; take as many"
    else:
        return ""
    if config.frozen_groups <= taken:
        return ""
    return f"warning: optim.frozen_groups {config.frozen_groups}: {reason}, or leave frozen_groups out"


def lr_factor(step: int, config: OptimConfig, num_steps: int, is_encoder: bool = False) -> float:
    """Return share of the peak learning rate at an optimiser step."""
    if step < config.sawtooth_steps:
        return 0.0 if is_encoder else _ramp(step, config.sawtooth_steps, config)
    warmup_steps = config.num_warmup_steps
    step, num_steps = step - config.sawtooth_steps, num_steps - config.sawtooth_steps
    if step < warmup_steps:
        return _ramp(step, warmup_steps, config)
    if config.schedule == "constant":
        return 1.0
    # A run as long as its ramp has no step of a decay, but PyTorch asks for the rate behind the last step too.
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    if config.schedule == "cosine":
        return cosine(1.0, 0.0, progress)
    result: float = (1 - progress) ** 0.9
    return result


def weight_decay(step: int, config: OptimConfig, num_steps: int, is_decayed: bool = True) -> float:
    """Return the weight decay at an optimiser step."""
    last = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    return cosine(config.weight_decay, last, step / num_steps) if is_decayed else 0.0


def _ramp(step: int, num_steps: int, config: OptimConfig) -> float:
    start = config.warmup_lr / config.lr if config.warmup_lr else 0.0  # a rate of 0 freezes everything
    return start + (1 - start) * (step if start else step + 1) / num_steps


class _Place(NamedTuple):
    """Settings shared by the parameters of one optimizer group."""

    is_encoder: bool
    lr_scale: float
    is_decayed: bool


def _places(model: nn.Module, config: OptimConfig, transferred: Collection[str]) -> dict[_Place, list[nn.Parameter]]:
    groups = _encoder_groups(model)
    if config.embed_lr_scale != 1.0 and not _patch_embedding(model):
        raise UserError(
            f"optim.embed_lr_scale {config.embed_lr_scale}: the encoder is no transformer over patches; leave it out"
        )
    if not groups and (config.sawtooth_steps or config.layer_decay != 1.0):
        raise UserError(
            "optim: got sawtooth_steps or layer_decay for a model without a backbone; leave them out, they speak of one"
        )
    scales = {
        id(parameter): config.backbone_lr_scale * config.layer_decay ** (len(groups) - index)
        for index, group in enumerate(groups)
        for parameter in group
    }
    for parameter in _patch_embedding(model) if config.embed_lr_scale != 1.0 else ():
        scales[id(parameter)] *= config.embed_lr_scale
    places: dict[_Place, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Norms and biases are not decayed: pulling a scale to zero regularises nothing.
            is_encoder = id(parameter) in scales
            scale = config.transferred_lr_scale if name in transferred else config.fresh_lr_scale
            place = _Place(is_encoder, scales.get(id(parameter), scale), parameter.ndim > 1)
            places.setdefault(place, []).append(parameter)
    return places


def _patch_embedding(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the patch embedding, of a transformer over patches."""
    backbone = getattr(model, "backbone", None)
    encoder = backbone.encoder if isinstance(backbone, Backbone) else None
    return list(encoder.embedding.parameters()) if isinstance(encoder, TokenBackbone) else []


def _encoder_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    backbone = getattr(model, "backbone", None)
    return backbone.encoder.depth_groups() if isinstance(backbone, Backbone) else []
