"""The memory of a training step without values, against the tensors of the same step on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from medpretrain3d.backbones import convolution
from medpretrain3d.objectives import (
    DINO,
    MAE,
    CaseClassification,
    ConsistentViews,
    DINOv2,
    ObjectiveOutput,
    SimCLR,
    SparK,
    VoCo,
)
from medpretrain3d.objectives.base import with_host_copies
from medpretrain3d.planning.traced_step import META, LiveMemory, TracedStep, trace_step
from tests.tiny import tiny_backbone
from tests.tiny_objectives import TINY_OBJECTIVES, tiny_objective

TOLERANCE = 0.1
"""Of bytes: on the CPU, convolutions keep two halves of a small image with a margin."""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_copies_for_kernels_of_a_cpu(monkeypatch):
    """The step that is computed is that of a GPU."""
    monkeypatch.setattr(convolution, "_has_avx512", lambda: False)


class Squares(nn.Module):
    """The least that trains a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: dict[str, Tensor]) -> ObjectiveOutput:
        return ObjectiveOutput(torch.stack([one.square().mean() for one in self.backbone(batch["image"])]).sum())


def measured(network: nn.Module, batch: dict[str, Tensor]) -> int:
    """The most bytes of tensors that are alive at once in a step on the CPU."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
    memory = LiveMemory(CPU, network)
    with memory:
        for tensor in batch.values():
            memory.note(tensor)
        network(batch).loss.backward()
    return memory.peak_bytes


def computed(network: nn.Module, batch: dict[str, Tensor], precision: str = "32-true") -> TracedStep:
    """The same without values."""
    network = network.to(META)
    batch = with_host_copies({name: one.to(META) for name, one in batch.items()}, batch)
    on_device = [one for one in batch.values() if one.is_meta]
    return trace_step(network, lambda: network(batch).loss, on_device, precision)  # type: ignore[arg-type]  # a name


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (MAE, "Primus"),
        (SparK, "ResEnc"),
        (SimCLR, "ViT"),
        (VoCo, "ResEnc"),
        (DINO, "Primus"),
        (DINOv2, "DinoViT"),
        (ConsistentViews, "ResEnc"),
        (CaseClassification, "ResEnc"),
    ],
)
def test_a_step_of_pretraining_takes_what_was_computed(cls, name):
    objective, batch = tiny_objective(cls, name), TINY_OBJECTIVES[cls].batch(name, 0)
    wanted = measured(objective, batch)
    assert computed(objective, batch).activation_bytes == pytest.approx(wanted, rel=TOLERANCE)


@pytest.mark.parametrize(("name", "saved"), [("ResEnc", 0.75), ("Primus", 0.85)])
def test_checkpointing_takes_what_was_computed_and_less(name, saved):
    found = []
    for checkpointing in (False, True):
        network = Squares(tiny_backbone(name, checkpointing=checkpointing))
        batch = {"image": torch.zeros(2, 1, 32, 32, 32)}
        wanted = measured(network, batch)
        found.append(computed(network, batch).activation_bytes)
        assert found[-1] == pytest.approx(wanted, rel=TOLERANCE)
    assert found[1] < saved * found[0]


def test_what_others_compute_again_has_the_types_of_the_first_time():
    network = Squares(tiny_backbone("SwinUNETR", checkpointing=True))  # MONAI's blocks call PyTorch's checkpoint
    batch = {"image": torch.zeros(1, 1, 64, 32, 32)}
    assert computed(network, batch, "bf16-mixed").activation_bytes > 0


def test_what_is_alive_is_what_pytorch_allocates():
    network, image = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 32)), torch.zeros(1000, 64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = network(image)
    allocated = sum(event.self_cpu_memory_usage for event in profiler.key_averages())
    del output
    memory = LiveMemory(CPU, network)
    with memory:
        output = network(image)
    # The first layer's output went into the ReLU, which keeps its own.
    assert memory.live_bytes == allocated == 4 * 1000 * (512 + 32)
    assert memory.peak_bytes == 4 * 1000 * (512 + 512)
    del output
    assert memory.live_bytes == 4 * 1000 * 0


def test_a_linear_layer_by_hand():
    layer = nn.Linear(16, 8, bias=False)
    image = torch.zeros(10, 16)

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, batch: dict[str, Tensor]) -> ObjectiveOutput:
            return ObjectiveOutput(self.layer(batch["image"]).sum())

    step = computed(Half(), {"image": image}, "bf16-mixed")
    # 2 x 10 x 16 x 8 operations there, and as many for the gradient of the weights; the image needs none.
    assert step.flop == 2 * (2 * 10 * 16 * 8)
    # The image and the weights as they are multiplied, the image in fp32 as well, and what comes out, also in fp32, in
    # which sums are taken; the gradient of the weights comes when that is gone.
    assert step.activation_bytes == 10 * 16 * (4 + 2) + 16 * 8 * 2 + 10 * 8 * (2 + 4) + 4
