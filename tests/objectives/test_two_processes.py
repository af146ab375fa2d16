"""Every objective steps on two processes with four samples each as on one with eight, whatever is drawn or counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from medpretrain3d.backbones import ViT
from medpretrain3d.detection import FCOS
from medpretrain3d.objectives import (
    MAE,
    CaseClassification,
    ConsistentViews,
    DetectorPretraining,
    DINOv2,
    MultiTalent,
    Objective,
    SparK,
)
from medpretrain3d.objectives.proposal_contrast import ProposalContrast
from tests.tiny import tiny_backbone
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, refusal, tiny_objective

Batch = dict[str, torch.Tensor]


def make(name: str) -> Objective:
    """The tiny example of a class, or one of a variant whose masks, weights or branches are drawn or counted."""
    if name in VARIANTS:
        torch.manual_seed(0)
        return VARIANTS[name][1]()
    return tiny_objective(CLASSES[name], backbone(CLASSES[name]))


def dropping() -> ViT:
    return ViT("XXS", patch_size=(4, 8, 8), drop_path=0.5)


CLASSES = {cls.__name__: cls for cls in TINY_OBJECTIVES}
VARIANTS: dict[str, tuple[type[Objective], Any]] = {
    "MAE, a range": (MAE, lambda: MAE(tiny_backbone("ViT anisotropic"), (0.3, 0.8))),
    "SparK, a range": (SparK, lambda: SparK(tiny_backbone("ResEnc anisotropic"), (0.3, 0.8))),
    "ConsistentViews, a range": (
        ConsistentViews,
        lambda: ConsistentViews(tiny_backbone("ViT anisotropic"), (0.3, 0.8), projector_channels=(16, 8)),
    ),
    "DINOv2, a moving center": (
        DINOv2,
        lambda: DINOv2(
            tiny_backbone("ViT anisotropic"),
            32,
            (32, 16),
            centering="mean",
            mask_probability=0.4,
            mask_ratio=(0.1, 0.9),
        ),
    ),
    "CaseClassification, weights": (
        CaseClassification,
        lambda: CaseClassification(
            tiny_backbone("ViT anisotropic"), (("benign", "malignant"),), class_weights={"malignant": 20.0}
        ),
    ),
    "DetectorPretraining, contrast": (
        DetectorPretraining,
        lambda: DetectorPretraining(
            FCOS(tiny_backbone(backbone(DetectorPretraining)), 2, first_level=0, fpn_channels=16, head_convs=1),
            contrast=ProposalContrast(channels=8),
        ),
    ),
    **{
        f"{cls.__name__}, drop path": (cls, lambda cls=cls: TINY_OBJECTIVES[cls].make(dropping()))
        for cls in TINY_OBJECTIVES
        if not refusal(cls, "ViT anisotropic")
    },
}
NAMES = [*CLASSES, *VARIANTS]


def half(cls: type[Objective], rank: int) -> Batch:
    """The four samples of a process; of MultiTalent those of one data set each, so that no process sees all classes."""
    batch = joined([TINY_OBJECTIVES[cls].batch(backbone(cls), 4 * rank + first) for first in (0, 2)])
    if cls is MultiTalent:
        return {**batch, "dataset": torch.full((4,), rank)}
    if cls is CaseClassification:  # three of one process are malignant, none of the other
        return {**batch, "case_label": torch.arange(4).clamp(max=1) * (1 - rank)}
    return batch


def joined(parts: list[Batch]) -> Batch:
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    offsets = range(0, len(batch["seed"]), len(batch["seed"]) // len(parts))
    for name in ("target_of", "box_of", "ignore_of"):  # count the samples of their own part
        if name in batch:
            batch[name] = torch.cat([part[name] + i for part, i in zip(parts, offsets, strict=True)])
    return batch


def backbone(cls: type[Objective]) -> str:
    return default_backbone(cls, "ViT anisotropic", "ResEnc anisotropic")


def step(objective: Objective, call: torch.nn.Module, batch: Batch) -> Batch:
    """Loss, gradients, and what has followed after one step without any change of the weights."""
    loss = call(batch).loss
    loss.backward()
    objective.after_step()
    gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **{f"buffer {name}": b for name, b in objective.named_buffers()}}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for name in NAMES:
        objective = make(name)
        results[name] = step(objective, DistributedDataParallel(objective), half(type(objective), rank))
        dist.all_reduce(results[name]["loss"])
        results[name]["loss"] /= 2
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict[str, Batch]:
    """What two processes computed."""
    folder = tmp_path_factory.mktemp("processes")
    # Not forked: after some tests of others autograd has threads, and does no backward pass in a fork.
    mp.start_processes(work, (folder,), nprocs=2, start_method="spawn")
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_with_four_samples_step_as_one_with_eight(name, together):
    objective = make(name)
    cls = type(objective)
    expected = step(objective, objective, joined([half(cls, 0), half(cls, 1)]))
    found = together[name]
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-6)
    assert found.keys() == expected.keys()
    for part, value in expected.items():
        torch.testing.assert_close(found[part], value, atol=1e-6, rtol=1e-4, msg=f"{name} {part}")
