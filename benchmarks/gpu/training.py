"""Steps per second and peak memory of the published recipes, as they are, compiled, and with channels last."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.gpu.recipes import PUBLISHED, TOY, Recipe, Step, loss_of
from benchmarks.gpu.session import Row, Session, Skipped

PARTS = ("backbone", "decoder", "fpn", "classification_head", "box_head", "segmenter", "projector")
"""What holds the time of a step."""
SETTINGS = ((False, False), (True, False), (False, True), (True, True))
"""Channels last, compiled."""


def rows(session: Session) -> Iterator[Row]:
    recipes = [Recipe.read(name) for name in (TOY if session.is_toy else PUBLISHED)]
    plain: dict[str, float] = {}
    # Setting by setting: where the time does not suffice for all, each recipe has its plain row.
    for is_channels_last, is_compiled in SETTINGS:
        for recipe in recipes:
            names = ["bf16" if session.half == torch.bfloat16 else "fp16"] if session.is_gpu else ["fp32"]
            names += ["channels_last_3d"] * is_channels_last + ["compiled"] * is_compiled
            measure = partial(_measure, session, recipe, is_channels_last, is_compiled, plain)
            yield session.row("training", recipe.work, ", ".join(names), measure)


def step(session: Session, recipe: Recipe, is_channels_last: bool = False, is_compiled: bool = False) -> Step:
    """Return the training step of a recipe: forward, backward, optimizer."""
    layout = torch.channels_last_3d if is_channels_last else torch.contiguous_format
    model = recipe.model().to(session.device).train()
    if is_channels_last:
        model = model.to(memory_format=torch.channels_last_3d)
    optimizer = recipe.optimizer(model)
    if is_compiled:
        compile_parts(model)
    batch = recipe.batch(session.device, layout)
    dtype = session.half if session.is_gpu else torch.float32
    scaler = torch.amp.GradScaler(session.device.type, enabled=dtype == torch.float16)

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with session.autocast(dtype):
            loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return run


def compile_parts(model: nn.Module) -> None:
    """Compile in place what holds the time of a step, and not the step: matching and losses depend on the data."""
    for name in PARTS:
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            part.compile()


def _measure(
    session: Session, recipe: Recipe, is_channels_last: bool, is_compiled: bool, plain: dict[str, float]
) -> tuple[str, str]:
    if is_compiled and not session.is_gpu:
        raise Skipped("compiled on GPUs only: on a CPU it takes minutes and gains nothing")
    if is_compiled and session.left_s(0.5) < 60:
        raise Skipped("too little time is left for the compiler; more of it: --minutes")
    with session.peak() as peak:
        seconds = session.seconds(step(session, recipe, is_channels_last, is_compiled))
        memory = peak()
    before = plain.setdefault(recipe.name, seconds)
    note = "" if before == seconds else f"{before / seconds:.2f} times the plain one"
    return f"{1 / seconds:.2f} steps/s, {recipe.batch_size / seconds:.2f} samples/s, peak {memory}", note
