from __future__ import annotations

import pytest
import torch

from medpretrain3d.objectives import ConsistentViews
from medpretrain3d.objectives.consistent_views import cosine_distance, hidden_huber
from tests.tiny import tiny_backbone
from tests.tiny_views import CONTRASTIVE, two_views

SHAPE = (8, 16, 16)


def test_huber_by_hand():
    image = torch.zeros(1, 1, 1, 1, 4)
    restored = torch.tensor([0.5, 9.0, 3.0, 9.0]).reshape(1, 1, 1, 1, 4)
    hidden = torch.tensor([True, False, True, False]).reshape(1, 1, 1, 1, 4)
    assert hidden_huber(restored, image, hidden).item() == pytest.approx((0.5 * 0.5**2 + (3 - 0.5)) / 2)


def test_cosine_distance_is_a_mean_over_shared_places_of_each_view():
    predicted = torch.tensor([[[1.0, 0], [1, 0], [0, 1]], [[1, 0], [1, 0], [1, 0]]])
    target = torch.tensor([[[2.0, 0], [0, 3], [0, -1]], [[-1, 0], [0, 1], [1, 0]]])
    inside = torch.tensor([[True, True, False], [True, False, False]])
    assert cosine_distance(predicted, target, inside).item() == pytest.approx(((0 + 1) / 2 + 2) / 2)
    assert cosine_distance(predicted, target, torch.zeros_like(inside)).item() == 0


@pytest.mark.parametrize("name", ["ViT anisotropic", "ResEnc anisotropic"])
def test_the_loss_is_the_weighted_sum_of_its_parts(name):
    out = CONTRASTIVE[ConsistentViews](tiny_backbone(name))(two_views((16, 32, 32)))
    logs = out.logs
    total = 5 * logs["restore"] + logs["align"] + 0.1 * logs["contrast"]
    assert out.loss.item() == pytest.approx(total.item(), abs=1e-5)
    # The crops stand a quarter of the patch apart along each axis: (3 / 4) ** 3 of each is shared.
    assert 0.2 < logs["shared_places"] < 0.7


def test_identical_views_of_a_teacher_that_is_the_student_agree_without_masking():
    objective = CONTRASTIVE[ConsistentViews](tiny_backbone("ResEnc anisotropic")).eval()
    objective.predictor = torch.nn.Identity()
    batch = two_views(SHAPE)
    # The same crop twice, and blocks hidden that are zero anyway: student and teacher see the same.
    batch["image"] = torch.zeros_like(batch["image"])
    batch["affine"] = torch.eye(3, 4).expand_as(batch["affine"])
    assert objective(batch).logs["align"].item() == pytest.approx(0, abs=1e-5)


def test_views_hide_different_blocks_and_the_student_sees_none_of_them():
    objective = CONTRASTIVE[ConsistentViews](tiny_backbone("ViT anisotropic")).eval()
    preview = objective(two_views(SHAPE)).preview
    hidden = preview["masked"] != preview["view 1"]
    assert hidden.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(preview["restored"][~hidden], preview["view 1"][~hidden])


def test_what_is_restored_is_shown_beside_what_it_is_compared_with():
    """By these names probes know the hidden voxels, and pictures the error."""
    preview = CONTRASTIVE[ConsistentViews](tiny_backbone("ViT anisotropic")).eval()(two_views(SHAPE)).preview
    assert torch.equal(preview["input"], preview["view 1"])
    hidden = preview["masked"] != preview["input"]
    assert (preview["restored"] != preview["input"]).sum() == hidden.sum() > 0
