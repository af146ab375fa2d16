"""How often the host waits for a GPU in a training step and in a detection, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, DeformableDETR, Detector, HeatMap, InstanceMasks, RetinaNet, RetinaUNet
from medpretrain3d.randomness import sample_seeds
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_detectors import tiny_detector

SHAPE = (24, 16, 32)
WAITS = {RetinaNet: 3, RetinaUNet: 3, FCOS: 2, DeformableDETR: 2, HeatMap: 2}
"""For targets that are on the device, to know which predictions are finite, and of `HardNegativeBCE` for its counts."""


def a_batch(size: int) -> tuple[Tensor, list[Targets]]:
    image = torch.randn(size, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(SHAPE, dtype=torch.long)
    mask[4:10, 6:14, 8:15] = 2
    boxes, labels = torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1])
    return image, [Targets(boxes, labels, mask, seed=torch.tensor(seed)) for seed in range(size)]


def step(model: Detector, image: Tensor, targets: list[Targets]) -> None:
    with sample_seeds(torch.stack([target.seed for target in targets])):
        losses = model.losses(image, targets)
    torch.stack(list(losses.values())).sum().backward()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("detector", WAITS)
def test_the_host_waits_this_often_in_a_training_step(detector, size):
    assert_waits(detector, size)


@pytest.mark.parametrize("detector", [RetinaNet, FCOS, DeformableDETR])
def test_masks_cost_no_wait(detector):
    assert_waits(detector, 4, masks=InstanceMasks(channels=8, size=2))


def assert_waits(detector: type[Detector], size: int, **options: Any) -> None:
    image, targets = a_batch(size)
    with CountingDevice() as device:
        model = tiny_detector(detector, **options).to(DEVICE)
        image, targets = image.to(DEVICE), [target.to(DEVICE) for target in targets]
        step(model, image, targets)
        device.reset()
        step(model, image, targets)
        assert len(device.waits) == WAITS[detector], device.summary


@pytest.mark.parametrize("detector", WAITS)
def test_the_host_waits_once_for_a_batch_of_tiles(detector):
    image, _ = a_batch(4)
    with CountingDevice() as device, torch.inference_mode():
        model = tiny_detector(detector).eval().to(DEVICE)
        image = image.to(DEVICE)
        model.detect(image[:1])
        device.reset()
        model.detect(image)
        assert len(device.waits) == 1, device.summary
