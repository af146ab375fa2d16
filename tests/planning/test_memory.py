from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from medpretrain3d.backbones.resenc import ResEnc
from medpretrain3d.detection import AnchorGrid, RetinaUNet
from medpretrain3d.planning.make import training_forward
from medpretrain3d.planning.memory import GIB, MemoryEstimate, estimate_memory, saved_bytes


def test_two_linear_layers_by_hand():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    # The first layer keeps its input (10 x 4), the second the ReLU's result (10 x 8), which the ReLU keeps as well; the
    # output (10 x 2) goes into the loss. 4 bytes each.
    assert sorted(saved_bytes(network, lambda: network(torch.zeros(10, 4)))) == [80, 160, 320]
    memory = estimate_memory(lambda: nn.Linear(4, 8), lambda net, image: net(image.flatten(1)), (1, 1, 2, 2))
    assert memory.fixed == (4 * 8 + 8) * 16
    assert memory.per_sample == (4 + 8) * 4 + 2 * 8 * 4


def test_batches_by_hand():
    memory = MemoryEstimate(fixed=GIB, per_sample=2 * GIB)
    assert memory.gib(3) == 1 + 1 + 6
    assert memory.largest_batch(8.5) == 3
    assert memory.largest_batch(3.5) == 0


@pytest.mark.parametrize("strides", [None, ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))])
def test_the_trace_is_what_pytorch_allocates(strides):
    """Bytes alive after a forward pass on the CPU, by the profiler, against the trace without values."""

    def make() -> RetinaUNet:
        anchors = AnchorGrid([[(4.0, 4, 4)] * 3] * 2)
        return RetinaUNet(ResEnc("XXS", strides=strides), 2, anchors, first_level=2, fpn_channels=32)

    image = torch.zeros(2, 1, 32, 32, 32)  # of one so small, convolutions on the CPU keep two halves with a margin
    network = make()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        outputs = training_forward(network, image)
    measured = sum(event.self_cpu_memory_usage for event in profiler.key_averages()) + image.nbytes
    assert outputs
    with torch.device("meta"):
        traced_network = make()
        traced = saved_bytes(traced_network, lambda: training_forward(traced_network, torch.empty(image.shape)))
    assert sum(traced) == pytest.approx(measured, rel=0.1)
