from __future__ import annotations

import pytest
import torch

from medpretrain3d.randomness import sample_seeds
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny import TINY_BACKBONES, tiny_backbone


@pytest.mark.parametrize("name", TINY_BACKBONES)
def test_the_host_never_waits_for_a_backbone(name):
    with CountingDevice() as device:
        backbone = tiny_backbone(name).train().to(DEVICE)
        image, seeds = torch.zeros(2, 1, *TINY_BACKBONES[name].patch).to(DEVICE), torch.arange(2)
        device.reset()
        with sample_seeds(seeds):
            features = backbone(image)
        torch.stack([feature.mean() for feature in features]).sum().backward()
        assert not device.waits, device.summary
