from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.backbones import TokenPyramid, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import SimCLR
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


@pytest.mark.parametrize("temperature", [0.0, -0.5])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(UserError, match="temperature"):
        SimCLR(tiny_backbone(), temperature=temperature, projector_channels=(16, 8))


def test_half_precision_does_not_touch_the_loss():
    first, second = torch.randn(2, 4, 16).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(first, second, 0.01), nt_xent(first, second, 0.01).float())
        inside = nt_xent(first, second, 0.01)
    assert torch.equal(inside, nt_xent(first, second, 0.01))
