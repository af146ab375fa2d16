"""Memory of training as planned, while there is no recipe yet: what `plan --config` computes of the one that follows.

The step of the planned network is traced on tensors without values (`traced_step.py`): nothing but its size, its
optimizer and the precision decides.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import yaml
from torch import nn

from medpretrain3d.backbones.resenc import Preset, ResEnc
from medpretrain3d.detection import AnchorGrid, Detector, HeatMap, RetinaNet, RetinaUNet
from medpretrain3d.planning.plan import Plan
from medpretrain3d.planning.recipe_step import NothingDrawn, sum_of_outputs
from medpretrain3d.planning.requirements import ON_GPUS, training_setting
from medpretrain3d.planning.setup import GPU, Setup
from medpretrain3d.planning.topology import Topology, Triple
from medpretrain3d.planning.traced_step import META, trace_step
from medpretrain3d.planning.training_memory import GIB, RESERVE_GIB, Setting, TrainingMemory, training_memory
from medpretrain3d.precision.names import network_precision


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that do not depend on the batch, and bytes of each sample."""

    fixed: int
    per_sample: int

    def gib(self, batch_size: int) -> float:
        """Return the memory of a batch in GiB, the reserve included."""
        return RESERVE_GIB + (self.fixed + batch_size * self.per_sample) / GIB

    def largest_batch(self, memory_gib: float) -> int:
        """Return samples that fit; 0 where none does."""
        return max(0, int(((memory_gib - RESERVE_GIB) * GIB - self.fixed) // self.per_sample))


class Shown(NamedTuple):
    """What the data decide of a network."""

    num_classes: int = 1
    num_channels: int = 1
    have_masks: bool = True
    """Whether every object is outlined."""


class _Network(NamedTuple):
    preset: str
    topology: Topology
    first_level: int | None
    levels: tuple[int, int] | None
    """Their number, and anchors of each cell; None without objects, or of points."""
    fpn_channels: int | None
    shown: Shown

    def make(self) -> nn.Module:
        with torch.device("cpu"), NothingDrawn():
            topology, shown = self.topology, self.shown
            encoder = ResEnc(cast(Preset, self.preset), shown.num_channels, topology.strides, topology.kernel_sizes)
            if self.first_level is None:
                return encoder.to(META)
            options: dict[str, Any] = {"first_level": self.first_level}
            if self.fpn_channels is not None:
                options["fpn_channels"] = self.fpn_channels
            if self.levels is None:
                return HeatMap(encoder, shown.num_classes, **options).to(META)
            anchors = AnchorGrid([[(1.0, 1.0, 1.0)] * self.levels[1]] * self.levels[0])  # sizes take no memory
            kind: type[Any] = RetinaUNet if shown.have_masks else RetinaNet
            detector: nn.Module = kind(encoder, shown.num_classes, anchors, **options)
            return detector.to(META)


def estimate(plan: Plan, shown: Shown | None = None, setup: Setup = GPU) -> MemoryEstimate:
    """Return memory of training as planned, from steps of a small patch: every map grows with it.

    Args:
        plan: with levels, or without where the encoder is trained alone.
        shown: of the data.
        setup: of the accelerator.
    """
    network = _network(plan, shown or Shown(), setup)
    d, h, w = plan.topology.reached[-1]
    patch: Triple = (2 * d, 2 * h, 2 * w)
    one, two = (_traced(network, patch, size, _setting(setup)) for size in (1, 2))
    per_sample = two.activations - one.activations
    ratio = float(np.prod(plan.patch) / np.prod(patch))
    return MemoryEstimate(one.num_bytes - per_sample, int(per_sample * ratio))


def planned_memory(plan: Plan, shown: Shown | None = None, setup: Setup = GPU) -> TrainingMemory:
    """Return memory of training as planned, from a step of its own patch and batch."""
    return _traced(_network(plan, shown or Shown(), setup), plan.patch, plan.batch_size, _setting(setup))


def _network(plan: Plan, shown: Shown, setup: Setup) -> _Network:
    levels = None if plan.anchors is None else (len(plan.anchors), len(plan.anchors[0]))
    return _Network(plan.preset, plan.topology, plan.first_level, levels, setup.fpn_channels, shown)


def _setting(setup: Setup) -> Setting:
    optim: Mapping[str, Any] = yaml.safe_load(setup.optim)
    averages = [{"class_path": "EMAWeightAveraging"}] if setup.ema_decay else []
    return training_setting(optim, {"callbacks": averages}, 1)


@functools.lru_cache(maxsize=128)
def _traced(described: _Network, patch: Triple, batch_size: int, setting: Setting) -> TrainingMemory:
    network = described.make()
    network.train()
    image = torch.empty(batch_size, described.shown.num_channels, *patch, device=META)

    def loss() -> torch.Tensor:
        if isinstance(network, Detector):
            return sum_of_outputs(network, image)
        return torch.stack([one.float().sum() for one in network(image)]).sum()

    traced = trace_step(network, loss, [image], network_precision(ON_GPUS))
    return training_memory(network, traced.activation_bytes, setting)
