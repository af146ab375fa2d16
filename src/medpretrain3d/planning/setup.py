"""Setups of a training: how large a network, how long, with which optimizer, for a GPU and for a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medpretrain3d.backbones.resenc import Preset

Accelerator = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Setup:
    """What a recipe takes from the accelerator and not from the data."""

    accelerator: Accelerator
    memory_gib: float
    """Of one device, for the patch and the batch."""
    preset: Preset
    """Of ResEnc."""
    anchors_per_level: int
    min_batch_size: int
    max_scan_voxels: float | None
    """Of the median scan, to which the spacing is made coarser; None keeps nnU-Net's rule."""
    max_steps: int
    val_check_interval: int
    num_workers: int
    optim: str
    """Options of `model.optim`, as YAML."""
    reasons: str
    """Of the schedule, a sentence or two."""
    fpn_channels: int | None = None
    """Of the detector; None leaves its own."""
    ema_decay: float | None = None
    """Of averaged weights; None for none."""


GPU = Setup(
    accelerator="gpu",
    memory_gib=16.0,
    preset="L",
    anchors_per_level=9,
    min_batch_size=2,
    max_scan_voxels=None,
    max_steps=125_000,
    val_check_interval=12_500,
    num_workers=8,
    optim="{momentum: 0.9, warmup_steps: 4000}",
    reasons="the schedule of nnDetection and of the 2025 study: 50 epochs of 2,500 steps, whatever the data set",
)
# 1.5 GiB hold one sample of about 400,000 voxels: seconds a step on two cores. Spacing, steps and optimizer are those
# of the recipes of real data in `configs/finetune` that were run on a CPU (openkbp.yaml).
CPU = Setup(
    accelerator="cpu",
    memory_gib=1.5,
    preset="XS",
    anchors_per_level=4,
    min_batch_size=1,
    max_scan_voxels=96.0**3,
    max_steps=800,
    val_check_interval=400,
    num_workers=1,
    optim="{name: adamw, lr: 1.0e-3, weight_decay: 1.0e-2, warmup_steps: 50}",
    reasons="the short schedule of openkbp.yaml, about 20 minutes on one core there; more steps are better",
    fpn_channels=48,
    ema_decay=0.99,
)
SETUPS: dict[Accelerator, Setup] = {"gpu": GPU, "cpu": CPU}
