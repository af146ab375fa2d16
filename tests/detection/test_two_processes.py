"""Every detector steps on two processes with two images each as on one with four, however unlike their objects are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import (
    FCOS,
    ContrastiveDenoising,
    DeformableDETR,
    Denoising,
    Detector,
    FocalLoss,
    HardNegativeBCE,
    OneToMany,
    RetinaNet,
    RetinaUNet,
    VarifocalSetLoss,
)
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.semi_supervised import FocalMix, MeanTeacher, SemiSupervised
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector

SHAPE = (24, 16, 32)
VARIANTS: dict[str, tuple[type[Detector], dict[str, Any]]] = {
    **{cls.__name__: (cls, {}) for cls in TINY_DETECTORS},
    "RetinaNet, focal loss": (RetinaNet, {"classification": FocalLoss(), "box_loss": "l1"}),
    "RetinaUNet, foreground": (RetinaUNet, {"segmentation": "foreground"}),
    "FCOS, hard negatives": (FCOS, {"classification": HardNegativeBCE()}),
    "DeformableDETR, dropout": (DeformableDETR, {"dropout": 0.3}),
    "DeformableDETR, denoising": (DeformableDETR, {"dropout": 0.1, "auxiliary": Denoising(groups=2)}),
    "DeformableDETR, contrastive": (
        DeformableDETR,
        {"auxiliary": ContrastiveDenoising(groups=2), "criterion": VarifocalSetLoss()},
    ),
    "DeformableDETR, one to many": (DeformableDETR, {"auxiliary": OneToMany(num_queries=8, repeats=2)}),
}


TAUGHT = {"mean teacher": MeanTeacher(score_threshold=0.0105), "FocalMix": FocalMix(num_views=3)}
"""With a threshold that some of the boxes reach that a network finds before it has learned anything."""
VARIANTS |= {f"{cls.__name__}, {name}": (cls, {}) for cls in (RetinaNet, RetinaUNet, FCOS) for name in TAUGHT}


class Losses(nn.Module):
    """`losses` where DDP looks for it, beside those of crops without labels where they are the variant."""

    def __init__(self, detector: Detector, method: SemiSupervised | None) -> None:
        super().__init__()
        self.detector = detector
        self.method = method

    def forward(self, image: Tensor, targets: list[Targets]) -> dict[str, Tensor]:
        losses = self.detector.losses(image, targets)
        if self.method is None:
            return losses
        student = self.method.check(self.detector)
        seeds = tuple(int(1000 * one.abs().max()) for one in image)  # a function of the crop, on whichever process
        unlabeled = UnlabeledBatch(image.flip(2), image.flip(2) + 0.1, seeds)
        found = self.method.losses(student, copy.deepcopy(student).eval(), image, targets, unlabeled)
        return losses | {f"unlabeled {name}": loss for name, loss in found.losses.items()}


def samples(which: slice) -> tuple[Tensor, list[Targets]]:
    """Of four images: three objects and a mask, one without a mask, none, an empty mask; the second half holds none."""
    image = torch.randn(4, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[4.0, 6, 8, 10, 14, 15], [12, 2, 4, 20, 9, 12], [3, 1, 18, 9, 8, 27]])
    mask = torch.zeros(SHAPE, dtype=torch.long)
    mask[4:10, 6:14, 8:15] = 2
    none = torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)
    targets = [
        Targets(boxes, torch.tensor([1, 0, 1]), mask),
        Targets(boxes[:1], torch.tensor([0])),
        Targets(*none),
        Targets(*none, torch.zeros_like(mask)),
    ]
    return image[which], targets[which]


def step(name: str, which: slice, wrap: Any, seeds: Tensor | None = None) -> dict[str, Tensor]:
    """Losses and gradients."""
    cls, options = VARIANTS[name]
    detector = tiny_detector(cls, **options)
    call = wrap(Losses(detector, TAUGHT.get(name.partition(", ")[2])))
    torch.manual_seed(5)
    if seeds is None:
        losses = call(*samples(which))
    else:
        with sample_seeds(seeds[which]):
            losses = call(*samples(which))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    return {**{f"loss {name}": loss.detach() for name, loss in losses.items()}, **gradients}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name in VARIANTS:
        found = step(name, slice(2 * rank, 2 * rank + 2), DistributedDataParallel)
        for part, value in found.items():
            if part.startswith("loss"):
                dist.all_reduce(value)
                found[part] = value / 2
        results[name] = found
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, dict[str, Tensor]]:
    """What two processes computed."""
    folder = tmp_path_factory.mktemp("processes")
    # Not forked: after some tests of others autograd has threads, and does no backward pass in a fork.
    mp.start_processes(work, (folder,), nprocs=2, start_method="spawn")
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_with_two_images_step_as_one_with_four(name, together):
    expected = step(name, slice(0, 4), lambda module: module)
    assert together[name].keys() == expected.keys()
    for part, value in expected.items():
        torch.testing.assert_close(together[name][part], value, atol=1e-5, rtol=1e-3, msg=f"{name} {part}")


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_drawn_is_a_function_of_the_samples_seeds(name):
    cls, options = VARIANTS[name]
    seeds = torch.tensor([7, 8, 9, 10])
    state = torch.get_rng_state()
    detector = tiny_detector(cls, **options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with sample_seeds(seeds):
        first = detector.losses(*samples(slice(0, 4)))
    assert torch.equal(torch.get_rng_state(), before)
    with sample_seeds(seeds):
        again = detector.losses(*samples(slice(0, 4)))
    assert {key: value.item() for key, value in first.items()} == {key: value.item() for key, value in again.items()}
    torch.set_rng_state(state)
