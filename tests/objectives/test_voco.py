from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.loading.views import shared_volume
from medpretrain3d.objectives import VoCo
from medpretrain3d.objectives.voco import base_similarity, overlap_losses
from tests.tiny import tiny_backbone
from tests.tiny_views import CONTRASTIVE, grid_and_targets

ONE = torch.tensor([0])


def test_losses_by_hand():
    share = torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    predicted = torch.tensor([[0.25, 0.25, 0.5, 0.0]])
    attract, repel = overlap_losses(predicted, share, ONE, 1)
    assert attract.item() == pytest.approx(-math.log(1 - 0.5) * 0.75)
    assert repel.item() == pytest.approx(0.5**2 / 2)


def test_the_true_overlap_costs_nothing_and_the_opposite_stays_finite():
    share = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    volumes = torch.tensor([0, 1])
    assert [loss.item() for loss in overlap_losses(share, share, volumes, 2)] == [0, 0]
    assert all(torch.isfinite(loss) for loss in overlap_losses(1 - share, share, volumes, 2))


def test_every_volume_counts_alike_whatever_its_number_of_targets():
    share = torch.tensor([[1.0, 0.0]] * 4)
    predicted = torch.tensor([[0.5, 0.0], [1.0, 0], [1.0, 0], [1.0, 0]])
    attract, _ = overlap_losses(predicted, share, torch.tensor([0, 1, 1, 1]), 2)
    assert attract.item() == pytest.approx(math.log(2) / 2)


def test_base_crops_are_pushed_apart_where_they_are_alike():
    bases = torch.tensor([[[1.0, 0], [1, 0], [-1, 0]]])
    assert base_similarity(bases).item() == pytest.approx(2 / 6)  # one pair of three alike, opposites cost nothing


def test_the_share_is_the_true_overlap_of_the_volumes():
    batch = grid_and_targets((4, 8, 8), count=1)
    bases = np.array([[0, 0, 0], [0, 0, 8], [0, 8, 0], [0, 8, 8]])
    shares = shared_volume(np.array([[0, 4, 2], [0, 0, 4]]), bases, (4, 8, 8))
    assert batch["share"].tolist() == shares.tolist()
    for target, share in zip(batch["target"], batch["share"], strict=True):
        for base, part in zip(batch["base"][0], share, strict=True):
            assert torch.isin(target, base).float().mean().item() == pytest.approx(part.item(), abs=1e-6)


def test_base_crops_learn_nothing_from_the_prediction():
    objective = CONTRASTIVE[VoCo](tiny_backbone("ViT anisotropic"))
    batch = grid_and_targets((8, 16, 16))
    batch["base"].requires_grad_()
    out = objective.train()(batch)
    assert out.logs["spread"] > 0
    (out.loss - base_spread(objective, batch)).backward()
    assert batch["base"].grad.abs().max() < 1e-8


def base_spread(objective: VoCo, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    from medpretrain3d.objectives.projector import pool_levels

    vectors = objective.projector(pool_levels(objective.backbone(batch["base"].flatten(0, 1))))
    return base_similarity(torch.nn.functional.normalize(vectors, dim=1).unflatten(0, (2, 4)))


def test_features_of_resenc_l_have_the_published_number_of_channels():
    from medpretrain3d.backbones import ResEnc

    with torch.device("meta"):
        objective = VoCo(ResEnc("L"))
    assert objective.projector[0].in_features == 1120


def test_the_pictures_show_the_overlap_at_its_place():
    preview = CONTRASTIVE[VoCo](tiny_backbone()).eval()(grid_and_targets((8, 16, 16))).preview
    assert preview["base crops"].shape == (8, 32, 32)
    true = preview["true overlap"]
    assert true[0, 0, 0].item() == pytest.approx(2 * 0.375 - 1)
    assert true[0, 0, 31].item() == pytest.approx(2 * 0.125 - 1)


def test_a_grid_of_one_is_refused():
    batch = grid_and_targets((8, 16, 16))
    batch["base"], batch["share"] = batch["base"][:, :1], batch["share"][:, :1]
    with pytest.raises(UserError, match="at least two to tell apart"):
        CONTRASTIVE[VoCo](tiny_backbone())(batch)
