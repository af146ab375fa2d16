"""Every objective and detector under DDP as it is set here: no search for unused parameters, patient processes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn.parallel import DistributedDataParallel

from medpretrain3d.boxes import Targets
from medpretrain3d.engine.ddp import PATIENCE, PatientDDP
from medpretrain3d.engine.strategy import strategy_used
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, tiny_objective


@pytest.fixture
def alone():
    """A group of one process: DDP looks at its gradients as it does among many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Losses(torch.nn.Module):
    """A detector whose forward pass is that of training, as DDP wants it."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image, targets):
        return sum(self.detector.losses(image, targets).values())


def under_ddp(module: torch.nn.Module) -> DistributedDataParallel:
    options = strategy_used({"accelerator": "cpu", "devices": 2, "strategy": "ddp"})._ddp_kwargs
    return DistributedDataParallel(module, **options)


def all_parameters_move(ddp: DistributedDataParallel, losses) -> bool:
    """Make steps; DDP refuses the one after a parameter had no gradient."""
    for loss in losses:
        ddp.zero_grad()
        loss().backward()
    return all(parameter.grad is not None for parameter in ddp.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_every_objective_steps_without_a_search_for_unused_parameters(cls, alone):
    ddp, name = under_ddp(tiny_objective(cls)), default_backbone(cls)
    batches = [TINY_OBJECTIVES[cls].batch(name, seed) for seed in (5, 6, 7)]
    assert all_parameters_move(ddp, [lambda batch=batch: ddp(batch).loss for batch in batches])


@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_every_detector_does_with_and_without_objects(cls, alone):
    ddp = under_ddp(Losses(tiny_detector(cls)))
    image = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    label_map = torch.zeros(16, 16, 16, dtype=torch.long)
    some = Targets(torch.tensor([[2.0, 3, 4, 9, 9, 9]]), torch.tensor([1]), label_map)
    none = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    batches = ([some, some], [none, none], [some, none], [none, some])
    assert all_parameters_move(ddp, [lambda targets=targets: ddp(image, targets) for targets in batches])


def test_a_parameter_without_gradient_is_refused_by_the_step_after(alone):
    module = Losses(tiny_detector(next(iter(TINY_DETECTORS))))
    module.register_parameter("unused", torch.nn.Parameter(torch.zeros(3)))
    ddp, image = under_ddp(module), torch.zeros(1, 1, 16, 16, 16)
    none = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        all_parameters_move(ddp, [lambda: ddp(image, [none])] * 2)


def test_processes_wait_for_each_other_longer_than_pytorch_would(alone):
    strategy = PatientDDP(cluster_environment=LightningEnvironment(), parallel_devices=[torch.device("cpu")])
    group = dist.group.WORLD._get_backend(torch.device("cpu"))
    assert group.options._timeout < PATIENCE
    strategy.setup_distributed()  # meets nobody new: the group is there
    assert group.options._timeout == PATIENCE
