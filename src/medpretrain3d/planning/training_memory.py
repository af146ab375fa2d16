"""What one process of a training run holds on its device, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

GIB = 1024**3
RESERVE_GIB = 1.0
"""For the context and workspaces of the device."""
FP32 = 4
"""Bytes of a number."""
STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimizer keeps of each weight: the momentum; the first and second moment."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the device of one process."""

    weights: int
    """With buffers, and a slow teacher where there is one."""
    gradients: int
    optimizer: int
    averaged_weights: int
    """Of a callback that averages."""
    gathered: int
    """Whole weights and gradients of what is gathered at a time, where they are dealt out."""
    activations: int
    """The batch, what the backward pass needs, and gradients on their way."""

    @property
    def num_bytes(self) -> int:
        """All of it."""
        parts = (self.weights, self.gradients, self.optimizer, self.averaged_weights, self.gathered, self.activations)
        return sum(parts)

    @property
    def gib(self) -> float:
        """All of it in GiB, and 1 for the context and workspaces of the device."""
        return RESERVE_GIB + self.num_bytes / GIB


@dataclass(frozen=True)
class Setting:
    """How weights are trained."""

    optimizer: str = "sgd"
    states: int = STATES["sgd"]
    """Numbers of each weight that the optimizer keeps, in fp32."""
    is_averaged: bool = False
    num_shards: int = 1
    """Processes over which weights, gradients and states are dealt out."""


def training_memory(
    network: nn.Module, activations: int, setting: Setting, gathered_together: Sequence[nn.Module] = ()
) -> TrainingMemory:
    """Count what a step holds.

    Args:
        network: on any device; of weights that are split, both halves are counted.
        activations: bytes, as `trace_step` gives them.
        setting: optimizer, averages, shards.
        gathered_together: blocks that are gathered one after the other where weights are dealt out.
    """
    weights = FP32 * sum(one.numel() for one in network.parameters())
    buffers = sum(one.numel() * one.element_size() for one in network.buffers())
    num_trained = sum(one.numel() for one in network.parameters() if one.requires_grad)
    gradients = sum(one.numel() * one.element_size() for one in network.parameters() if one.requires_grad)
    shards = setting.num_shards
    gathered = 0
    if shards > 1:
        blocks = sorted(FP32 * sum(one.numel() for one in block.parameters()) for block in gathered_together)
        rest = weights - sum(blocks)
        # What holds the blocks stays whole through the step, of the blocks the next one is gathered meanwhile; the
        # gradients of each are whole until they are dealt out.
        gathered = 2 * rest + sum(blocks[-2:]) + sum(blocks[-1:])
    return TrainingMemory(
        weights=weights // shards + buffers,
        gradients=gradients // shards,
        optimizer=setting.states * FP32 * num_trained // shards,
        averaged_weights=(weights + buffers) * setting.is_averaged,
        gathered=gathered,
        activations=activations,
    )
