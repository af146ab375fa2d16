from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.detection.losses import (
    diou_loss,
    giou_loss,
    iou_loss,
    l1_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
    soft_dice_loss,
)


def test_focal_loss_of_an_undecided_logit():
    loss = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_focal_loss_without_focus_is_cross_entropy():
    logits, targets = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, 1.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0.0), expected / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.9, 1.0, 2.0])
def test_focal_loss_has_a_finite_gradient_also_where_the_answer_is_sure(gamma):
    logits = torch.tensor([-1e4, -100.0, -20, 0, 20, 100, 1e4], requires_grad=True)
    for right in (0.0, 1.0):
        (gradient,) = torch.autograd.grad(
            sigmoid_focal_loss(logits, torch.full((7,), right), 0.25, gamma).sum(), logits
        )
        assert gradient.isfinite().all()


def test_giou_loss_by_hand():
    cube = torch.tensor([[0.0, 0, 0, 2, 2, 2]])
    assert giou_loss(cube, cube).item() == 0
    # Shifted by half an edge: 1 voxel shared, 15 in the union, 27 in the hull.
    assert giou_loss(cube, cube + 1).item() == pytest.approx(1 - (1 / 15 - 12 / 27))
    # Apart by one edge along D: nothing shared, 16 in the union, 24 in the hull.
    apart = cube + torch.tensor([4.0, 0, 0, 4, 0, 0])
    assert giou_loss(cube, apart).item() == pytest.approx(1 + 8 / 24)


def test_diou_loss_by_hand():
    cube = torch.tensor([[0.0, 0, 0, 2, 2, 2]])
    assert diou_loss(cube, cube).item() == 0
    # Shifted by half an edge: IoU 1/15; centres sqrt(3) apart, the hull's diagonal is sqrt(27).
    assert diou_loss(cube, cube + 1).item() == pytest.approx(1 - 1 / 15 + 3 / 27)


@pytest.mark.parametrize("formula", [giou_loss, diou_loss])
def test_box_losses_see_float32_in_half_precision(formula):
    box = torch.tensor([[160.5, 0, 0, 164.5, 4, 4]])
    with torch.autocast("cpu", torch.bfloat16):
        loss = formula(box, torch.tensor([[160.0, 0, 0, 164, 4, 4]]))
    assert loss.dtype == torch.float32
    assert loss.item() > 0  # bf16 has no 160.5


def test_giou_loss_is_finite_for_a_box_that_shrank_to_a_point():
    point = torch.full((1, 6), 5.0, requires_grad=True)
    loss = giou_loss(point, torch.tensor([[0.0, 0, 0, 2, 2, 2]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(2 - 8 / 125)
    assert torch.isfinite(point.grad).all()


@pytest.mark.parametrize("formula", [iou_loss, giou_loss, diou_loss])
@pytest.mark.parametrize("far", [1e4, 1e12, 1e19, 3e38])
def test_overlap_losses_of_boxes_however_far_are_finite_and_so_are_their_gradients(formula, far):
    target = torch.tensor([[0.0, 0, 0, 8, 8, 8]])
    beside, around = [far, far, far, far + 8, far + 8, far + 8], [-far, -far, -far, far, far, far]
    boxes = torch.tensor([beside, around, [-far, 0, 0, 8, far, 8]], requires_grad=True)
    loss = formula(boxes, target.expand(3, 6))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert ((loss >= 0.99) & (loss <= 2)).all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_l1_and_smooth_l1_by_hand():
    deltas, targets = torch.tensor([[0.5, 0, 0, 0, 0, 2.0]]), torch.zeros(1, 6)
    assert l1_loss(deltas, targets).item() == 2.5
    assert smooth_l1_loss(deltas, targets).item() == pytest.approx(0.5 * 0.25 + 1.5)


def test_dice_of_perfect_undecided_and_wrong():
    labels = torch.tensor([0, 1, 1, 0]).reshape(1, 1, 1, 4)
    perfect = torch.stack([labels == 0, labels == 1], dim=1).float()
    assert soft_dice_loss(perfect, labels).item() == pytest.approx(0)
    # Half everywhere: overlap 1, sum of predictions 2, sum of truth 2.
    assert soft_dice_loss(torch.full_like(perfect, 0.5), labels).item() == pytest.approx(0.5, abs=1e-5)
    assert soft_dice_loss(1 - perfect, labels).item() == pytest.approx(1, abs=1e-5)


def test_dice_of_a_class_neither_present_nor_predicted_is_one():
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    background = torch.zeros(1, 2, 2, 2, 2)
    background[:, 0] = 1
    assert soft_dice_loss(background, labels).item() == 0
    assert soft_dice_loss(background[:0], labels[:0]).item() == 0  # no image at all
