"""A training step as a user of each library makes it: forward, loss, backward, clipping, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.timing import Row, race
from medpretrain3d.engine.optimizer import OptimConfig, configure
from medpretrain3d.precision.choice import choose_precision
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision

EQUAL_BAR, CHOSEN_BAR = 1.1, 1.5
"""Ratios that are wanted at equal precision, and in the precision that ours takes on this CPU."""
CLIP = 12.0
SGD = OptimConfig(lr=1e-3, momentum=0.99, warmup_steps=0)


def our_step(network: nn.Module, loss: Callable[[], Tensor], precision: Precision) -> Callable[[], None]:
    """Build a step with the optimizer of both stages."""
    optimizer = configure(network, SGD, 1000)["optimizer"]
    return _step(network, loss, optimizer, precision)


def their_step(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Build a step in float32 with PyTorch's optimizer as its documentation makes it, of the same settings."""
    options = {"momentum": SGD.momentum, "nesterov": SGD.nesterov, "weight_decay": SGD.weight_decay}
    return _step(network, loss, torch.optim.SGD(network.parameters(), SGD.lr, **options), "32-true")


def race_steps(
    work: str, peer: str, theirs: Callable[[], None], ours_in: Callable[[Precision], Callable[[], None]], rounds: int
) -> Iterator[Row]:
    """Race in float32, and in what ours takes on this CPU where that is another.

    Args:
        work: what both do.
        peer: who else does it.
        theirs: a step of the peer's, in float32.
        ours_in: makes a step of ours in a precision, as `32-true` or `bf16-mixed`.
        rounds: that count.
    """
    chosen = choose_precision("cpu").of_network
    equal = race(work, peer, theirs, ours_in("32-true"), rounds, keeps_memory=True, bar=EQUAL_BAR)
    yield equal
    if chosen != "32-true":
        equal = race(work, peer, theirs, ours_in(chosen), rounds, keeps_memory=True)
    names = {"work": f"{work}, in the precision that ours takes here", "precision": f"fp32, ours {chosen}"}
    yield replace(equal, bar=CHOSEN_BAR, **names)


def _step(
    network: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, precision: Precision
) -> Callable[[], None]:
    def run() -> None:
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), precision):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()

    return run
