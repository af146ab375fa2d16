"""What Models Genesis, VolumeFusion and SwinMultiTask have in common."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.objectives import ModelsGenesis, SwinMultiTask, VolumeFusion
from tests.tiny_objectives import TINY_OBJECTIVES, tiny_objective

GENERATIVE = (ModelsGenesis, VolumeFusion, SwinMultiTask)


def generative_batch(cls):
    return TINY_OBJECTIVES[cls].batch("ResEnc", 5)


@pytest.mark.parametrize("cls", GENERATIVE)
def test_a_sample_depends_on_its_seed_alone(cls):
    objective, batch = tiny_objective(cls).eval(), generative_batch(cls)
    assert torch.equal(objective(batch).loss, objective(batch).loss)
    assert not torch.equal(objective(batch).loss, objective({**batch, "seed": batch["seed"] + 2}).loss)


@pytest.mark.parametrize("cls", GENERATIVE)
def test_a_constant_volume_gives_a_finite_loss_and_gradients(cls):
    objective, batch = tiny_objective(cls), generative_batch(cls)
    objective({**batch, "image": torch.full_like(batch["image"], -1.0)}).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in objective.parameters())


@pytest.mark.parametrize("cls", GENERATIVE)
def test_pictures_are_volumes_of_one_size_without_gradient(cls):
    preview = tiny_objective(cls)(generative_batch(cls)).preview
    assert len(preview) == 3
    assert all(volume.shape == (16, 16, 16) and not volume.requires_grad for volume in preview.values())


@pytest.mark.parametrize("cls", GENERATIVE)
def test_the_loss_is_fp32_under_bf16_autocast(cls):
    objective, batch = tiny_objective(cls), generative_batch(cls)
    batch["image"] = batch["image"].repeat_interleave(2, -1).repeat_interleave(2, -2).repeat_interleave(2, -3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        loss = objective(batch).loss
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
