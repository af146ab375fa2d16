"""How often the host waits for a GPU in a training step and in a detection, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, DeformableDETR, Detector, RetinaNet, RetinaUNet
from medpretrain3d.randomness import sample_seeds
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_detectors import tiny_detector

SHAPE = (24, 16, 32)
LOSSES = {
    (RetinaNet, 1): 25,
    (RetinaNet, 4): 70,
    (RetinaUNet, 1): 27,
    (RetinaUNet, 4): 72,
    (FCOS, 1): 19,
    (FCOS, 4): 64,
    (DeformableDETR, 1): 64,
    (DeformableDETR, 4): 172,
}
"""Host waits of the losses and their backward pass; detector and images."""
DETECTIONS = {(RetinaNet, 4): 76, (RetinaUNet, 4): 76, (FCOS, 4): 72, (DeformableDETR, 4): 17}


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


@pytest.mark.parametrize(("detector", "size"), LOSSES)
def test_the_host_waits_this_often_in_a_training_step(detector, size):
    image, targets = a_batch(size)
    with CountingDevice() as device:
        model = tiny_detector(detector).to(DEVICE)
        image, targets = image.to(DEVICE), [target.to(DEVICE) for target in targets]
        step(model, image, targets)
        device.reset()
        step(model, image, targets)
        assert len(device.waits) == LOSSES[detector, size], device.summary


@pytest.mark.parametrize(("detector", "size"), DETECTIONS)
def test_the_host_waits_this_often_in_a_batch_of_tiles(detector, size):
    image, _ = a_batch(size)
    with CountingDevice() as device, torch.inference_mode():
        model = tiny_detector(detector).eval().to(DEVICE)
        image = image.to(DEVICE)
        model.detect(image[:1])
        device.reset()
        model.detect(image)
        assert len(device.waits) == DETECTIONS[detector, size], device.summary
