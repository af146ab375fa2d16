from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.detection.classification_losses import FocalLoss, HardNegativeBCE
from medpretrain3d.errors import UserError


def test_share_and_hardness_of_the_sample():
    labels = torch.full((1000,), -1)
    labels[:30] = 0
    logits = torch.arange(1000.0)[:, None]
    sampled = HardNegativeBCE(anchors_per_image=12, pool=2).sample(logits, labels, num_images=2)
    positives, negatives = sampled[labels[sampled] == 0], sampled[labels[sampled] == -1]
    assert len(positives) == 8  # a third of 2 x 12
    assert len(negatives) == 16
    assert negatives.min() >= 1000 - 2 * 16  # from the 32 hardest
    assert len(set(sampled.tolist())) == 24


def test_few_positives_keep_their_share_and_ignored_anchors_are_left_out():
    labels = torch.tensor([0] * 2 + [-1] * 10 + [-2] * 100)
    logits = torch.arange(112.0)[:, None]  # the ignored ones would be the hardest
    sampled = HardNegativeBCE(min_negatives_per_image=1).sample(logits, labels, num_images=1)
    assert sorted(labels[sampled].tolist()) == [-1] * 4 + [0] * 2


def test_a_sample_however_small_holds_an_object_if_there_is_any():
    logits, labels = torch.zeros(10, 1), torch.tensor([0, 0, *[-1] * 8])
    loss = HardNegativeBCE(anchors_per_image=1, min_negatives_per_image=0)
    sampled = loss.sample(logits, labels, 1).tolist()
    assert [index in (0, 1) for index in sampled] == [True, False, False]  # one, and the negatives of its share
    assert loss.sample(logits, torch.full((10,), -1), 1).tolist() == []


def test_images_without_objects_give_negatives():
    nothing = torch.full((50,), -1)
    assert len(HardNegativeBCE(min_negatives_per_image=5).sample(torch.zeros(50, 2), nothing, num_images=3)) == 15
    assert len(HardNegativeBCE().sample(torch.zeros(5, 2), nothing[:5], num_images=3)) == 5  # no more than there are


def test_loss_of_undecided_logits():
    labels = torch.tensor([1, -1, -1, -1])
    assert HardNegativeBCE()(torch.zeros(4, 2), labels, 1).item() == pytest.approx(math.log(2))
    # Two classes, four anchors: one right class at alpha, seven wrong ones at 1 - alpha, divided by one positive.
    expected = 0.5 * (0.25 + 7 * 0.75) * 0.25 * math.log(2)
    assert FocalLoss(alpha=0.25, gamma=2.0, weight=0.5)(torch.zeros(4, 2), labels, 1).item() == pytest.approx(expected)


def test_focal_loss_leaves_out_ignored_anchors_and_survives_no_positive():
    logits = torch.zeros(3, 1, requires_grad=True)
    loss = FocalLoss(alpha=0.25, gamma=0.0)(logits, torch.tensor([-1, -2, -1]), 1)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 0.75 * math.log(2))
    assert logits.grad[1].item() == 0


def test_a_sample_without_positives_is_refused_before_it_divides_by_their_share():
    with pytest.raises(UserError, match="positive_fraction"):
        HardNegativeBCE(positive_fraction=0.0)
