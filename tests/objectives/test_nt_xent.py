from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from medpretrain3d.backbones import TokenPyramid, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import DINO, ConsistentViews, Objective, SimCLR
from medpretrain3d.objectives.nt_xent import nt_xent
from tests.tiny import tiny_backbone
from tests.tiny_views import CONTRASTIVE, two_views

SHAPE = (8, 16, 16)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_equal_rows_cannot_be_told_apart(count):
    rows = torch.tensor([[1.0, -2, 3]]).expand(count, -1)
    assert nt_xent(rows, 5 * rows, 0.1).item() == pytest.approx(math.log(2 * count - 1), abs=1e-6)


def test_two_orthogonal_pairs_by_hand():
    rows = torch.eye(2)
    # Each row: its partner has cosine 1, the two rows of the other pair 0; temperature 0.5 makes 2 of 1.
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert nt_xent(rows, 3 * rows, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_a_batch_of_one_is_refused():
    with pytest.raises(UserError, match="batch of 1 over all processes"):
        CONTRASTIVE[SimCLR](tiny_backbone())(two_views(SHAPE, count=1))


@pytest.mark.parametrize("cls", list(CONTRASTIVE))
def test_branches_for_detection_are_refused(cls):
    with pytest.raises(UserError, match="pretrain the ViT inside it"):
        CONTRASTIVE[cls](TokenPyramid(ViT("XXS", patch_size=(8, 8, 8))))


def test_half_precision_does_not_touch_the_loss():
    first, second = torch.randn(2, 4, 16).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(first, second, 0.01), nt_xent(first, second, 0.01).float())
        inside = nt_xent(first, second, 0.01)
    assert torch.equal(inside, nt_xent(first, second, 0.01))


def step(objective: Objective, call: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss, gradients, and what has followed after one step without any change of the weights."""
    loss = call(batch).loss
    loss.backward()
    objective.after_step()
    gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **{f"buffer {name}": b for name, b in objective.named_buffers()}}


def work(rank: int, folder: Path, objectives: dict[str, Objective]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    batch = {name: value.chunk(2)[rank] for name, value in two_views(SHAPE, count=8).items()}
    results = {}
    for name, objective in objectives.items():
        results[name] = step(objective, DistributedDataParallel(objective), batch)
        dist.all_reduce(results[name]["loss"])
        results[name]["loss"] /= 2
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


def test_two_processes_with_four_samples_step_as_one_with_eight(tmp_path):
    objectives = {
        cls.__name__: CONTRASTIVE[cls](tiny_backbone("ViT anisotropic")) for cls in (SimCLR, DINO, ConsistentViews)
    }
    alone = {name: copy.deepcopy(objective) for name, objective in objectives.items()}
    mp.start_processes(work, (tmp_path, objectives), nprocs=2, start_method="spawn")
    together = torch.load(tmp_path / "results.pt", weights_only=True)
    for name, objective in alone.items():
        expected = step(objective, objective, two_views(SHAPE, count=8))
        assert together[name]["loss"].item() == pytest.approx(expected["loss"].item(), abs=1e-6)
        assert together[name].keys() == expected.keys()
        for part, value in expected.items():
            torch.testing.assert_close(together[name][part], value, atol=1e-6, rtol=1e-4, msg=f"{name} {part}")
