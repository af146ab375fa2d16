"""How often the host waits for a GPU in a step of an objective, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medpretrain3d.objectives import MAE, ConsistentViews, DetectorPretraining
from medpretrain3d.objectives.base import ON_HOST, with_host_copies
from medpretrain3d.objectives.masked import MaskedReconstruction
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, tiny_objective

# Objectives that hide tokens from a transformer hide voxels from a convolutional network.
PAIRS = [(cls, default_backbone(cls)) for cls in TINY_OBJECTIVES] + [(MAE, "ViT"), (ConsistentViews, "ViT")]

OF_DETECTOR: dict[Any, int] = {DetectorPretraining: 2}
"""A detector waits for its own predictions, whatever the batch: tests/detection/test_host_waits.py."""


def a_batch(cls: Any, name: str, size: int) -> dict[str, Any]:
    """A batch of 2 or 4 samples, each with a seed of its own."""
    parts = [TINY_OBJECTIVES[cls].batch(name, 5 + 2 * part) for part in range(size // 2)]
    for name in {"target_of", "box_of", "ignore_of"} & parts[0].keys():
        parts = [part | {name: part[name] + 2 * place} for place, part in enumerate(parts)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def step(objective: Any, batch: Any) -> None:
    objective(batch).loss.backward()
    objective.after_step()


@pytest.mark.parametrize(("cls", "name"), PAIRS)
def test_no_step_waits_where_the_seeds_are_on_the_host(cls, name):
    with CountingDevice() as device:
        objective = tiny_objective(cls, name).train().to(DEVICE)
        if isinstance(objective, MaskedReconstruction):
            objective.mask_ratio = (0.4, 0.6)  # one share is drawn for each batch
        for size in (2, 4):  # the second step has a center and a teacher that followed
            batch = a_batch(cls, name, size)
            sent = with_host_copies({key: value.to(DEVICE) for key, value in batch.items()}, batch)
            device.reset()
            step(objective, sent)
            assert len(device.waits) <= OF_DETECTOR.get(cls, 0), device.summary


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_a_batch_that_is_on_the_device_alone_is_waited_for_once(cls):
    """As one that a plugin or a notebook made."""
    name = default_backbone(cls)
    with CountingDevice() as device:
        objective = tiny_objective(cls, name).train().to(DEVICE)
        batch = {key: value.to(DEVICE) for key, value in a_batch(cls, name, 2).items()}
        device.reset()
        step(objective, batch)
        assert len(device.waits) <= 1 + OF_DETECTOR.get(cls, 0), device.summary


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_it_is_the_same_step_wherever_the_seeds_are(cls):
    name = default_backbone(cls)
    batch = a_batch(cls, name, 2)
    losses = [tiny_objective(cls, name).train()(one).loss for one in (batch, with_host_copies(batch, batch))]
    assert losses[0] == losses[1]
    assert with_host_copies(batch, batch).keys() - batch.keys() >= {"seed" + ON_HOST}
