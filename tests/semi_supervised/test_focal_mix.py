"""FocalMix: soft targets by hand, and what of a mixture counts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, FocalLoss, RetinaNet, RetinaUNet
from medpretrain3d.detection.losses import sigmoid_focal_loss, soft_focal_loss
from medpretrain3d.errors import UserError
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.unlabeled_crops import UnlabeledBatch
from medpretrain3d.semi_supervised import FocalMix
from medpretrain3d.semi_supervised.focal_mix import sharpened
from medpretrain3d.semi_supervised.mixing import mixed, mixed_objects, own_share
from tests.tiny_detectors import tiny_detector

DETECTORS = [RetinaNet, RetinaUNet, FCOS]
CUBE = (16, 16, 16)


def image(count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, *CUBE, generator=torch.Generator().manual_seed(seed))


def targets() -> list[Targets]:
    boxes = torch.tensor([[2.0, 3, 4, 9, 9, 9], [8, 8, 8, 14, 15, 15]])
    return [Targets(boxes, torch.tensor([1, 0])), Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))]


def test_with_hard_targets_the_soft_loss_is_the_focal_loss():
    logits = torch.linspace(-20, 20, 81)
    for alpha, gamma in ((0.25, 2.0), (0.9, 0.0), (0.5, 0.5)):
        for y in (0.0, 1.0):
            hard = torch.full_like(logits, y)
            expected = sigmoid_focal_loss(logits, hard, alpha, gamma)
            torch.testing.assert_close(soft_focal_loss(logits, hard, alpha, gamma), expected, atol=1e-7, rtol=1e-5)


def test_the_soft_loss_by_hand():
    # y 0.8, p 0.5: [0.75 + 0.8 (0.25 - 0.75)] 0.3^2 ln 2
    loss = soft_focal_loss(torch.zeros(1), torch.tensor([0.8]), alpha=0.25, gamma=2.0)
    assert loss.item() == pytest.approx(0.35 * 0.09 * np.log(2))
    right = torch.tensor([0.3, -2.0])
    assert soft_focal_loss(right, right.sigmoid(), alpha=0.25, gamma=2.0).max() < 1e-12  # what is right costs nothing
    logits = right.requires_grad_()
    soft_focal_loss(logits, right.detach().sigmoid(), alpha=0.25, gamma=0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_sharpening_by_hand():
    # T 0.5: p^2 / (p^2 + (1 - p)^2)
    torch.testing.assert_close(sharpened(torch.tensor([0.0, 0.1, 0.5, 0.8, 1.0]), 0.5)[1], torch.tensor(0.01 / 0.82))
    assert sharpened(torch.tensor([0.0, 0.5, 1.0]), 0.7).tolist() == [0.0, 0.5, 1.0]
    assert sharpened(torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0]), 0.005).tolist() == [0.0, pytest.approx(0), 0.5, 1.0, 1.0]
    p = torch.rand(20)
    torch.testing.assert_close(sharpened(p, 1.0), p)


@pytest.mark.parametrize("cls", DETECTORS)
def test_without_mixing_and_of_one_view_a_sure_teacher_is_learned_as_labels_are(cls):
    """Where the teacher says 1 at the anchors of the true objects and 0 elsewhere, the loss is that of the labels."""
    student, crops, truth = tiny_detector(cls, classification=FocalLoss()), image(), targets()
    shapes = [tuple(level.shape[2:]) for level in student.pyramid(crops)]
    labels = student.match(shapes, truth).class_of_anchors()
    sure = 200.0 * (labels[:, None] == torch.arange(2)).float() - 100.0
    teacher = SimpleNamespace(
        pyramid=student.pyramid, classification_head=lambda pyramid: sure.view(2, -1, 2), anchors=student.anchors
    )
    teacher.strides = student.strides
    method = FocalMix(num_views=1, mixup=0.0)
    unlabeled = UnlabeledBatch(crops, crops, seeds=(3, 4))
    empty = [Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))] * 2
    found = method.losses(student, teacher, crops, empty, unlabeled).losses["classification"]
    expected = student.losses(crops, truth)["classification"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cls", DETECTORS)
def test_views_are_averaged_anchor_by_anchor(cls):
    """A network that commutes with mirroring says the same in every view; this one says where it looks."""
    student = tiny_detector(cls)
    method = FocalMix(num_views=8, temperature=1.0)
    guesses, is_known = method.guess(student, image(), [generator_at(seed, 0) for seed in (1, 2)])
    assert is_known.all()
    seen = []
    for flips in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        logits = student.classification_head(student.pyramid(image().flip([axis - 3 for axis in flips])))
        levels = logits.sigmoid().split(student.anchors.per_level([(4, 4, 4), (2, 2, 2)]), dim=1)
        cells = [one.unflatten(1, (edge, edge, edge, -1)) for one, edge in zip(levels, (4, 2), strict=True)]
        seen.append(torch.cat([one.flip([axis + 1 for axis in flips]).flatten(1, 4) for one in cells], dim=1))
    torch.testing.assert_close(guesses, torch.stack(seen).mean(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("num_views", "axes", "turns", "most"),
    [(4, (), False, 1), (3, (1,), False, 2), (9, (0, 1, 2), False, 8), (5, (), True, 4)],
)
def test_more_views_than_there_are_orientations_are_refused(num_views, axes, turns, most):
    with pytest.raises(UserError, match=f"got num_views {num_views}, but .*; set num_views to at most {most}"):
        FocalMix(num_views=num_views, mirror_axes=axes, turns=turns)
    views = FocalMix(num_views=most, mirror_axes=axes, turns=turns).views(np.random.default_rng(0))
    assert len(set(map(str, views))) == most


def test_what_is_drawn_is_a_function_of_the_seed_of_a_crop():
    student, method = tiny_detector(FCOS), FocalMix()
    one = UnlabeledBatch(image(), image(seed=2), seeds=(5, 6))
    other = UnlabeledBatch(image().flip(0), image(seed=2).flip(0), seeds=(6, 5))
    first = method.losses(student, student, image(seed=3), targets(), one).losses["classification"]
    assert torch.equal(first, method.losses(student, student, image(seed=3), targets(), one).losses["classification"])
    swapped = method.losses(student, student, image(seed=3).flip(0), targets()[::-1], other).losses["classification"]
    torch.testing.assert_close(swapped, first)
    again = UnlabeledBatch(one.image, one.changed, seeds=(7, 8))
    assert not torch.equal(
        first, method.losses(student, student, image(seed=3), targets(), again).losses["classification"]
    )


def test_ignored_anchors_and_guesses_that_are_no_numbers_do_not_count():
    student, method = tiny_detector(FCOS), FocalMix()
    truth = [
        Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long), ignore=torch.tensor([[0.0, 0, 0, 16, 16, 16]]))
    ]
    unlabeled = UnlabeledBatch(image(1), image(1), seeds=(5,))
    assert method.losses(student, student, image(1), truth, unlabeled).losses["classification"] == 0
    broken = UnlabeledBatch(torch.full_like(image(1), torch.nan), image(1), seeds=(5,))
    assert method.losses(student, student, image(1), [targets()[1]], broken).losses["classification"] == 0


def test_a_share_is_at_least_a_half_and_mixes_rows():
    random = np.random.default_rng(0)
    shares = [own_share(random, 0.2) for _ in range(200)]
    assert min(shares) >= 0.5
    assert own_share(random, 0.0) == 1.0
    rows = mixed(torch.tensor([[4.0], [4.0]]), torch.tensor([[0.0], [2.0]]), [0.75, 1.0])
    assert rows.tolist() == [[3.0], [4.0]]


def test_an_object_keeps_its_place_and_at_least_half_of_its_own():
    picture = torch.zeros(1, *CUBE)
    picture[0, 2:4, 2:4, 2:4], picture[0, 8:12, 8:12, 8:12], picture[0, 0, 0, 0] = 1.0, 2.0, 7.0
    boxes = torch.tensor([[2.0, 2, 2, 4, 4, 4], [8, 8, 8, 12, 12, 12]])
    alike = Targets(boxes, torch.tensor([1, 1]))
    result = mixed_objects(picture, alike, np.random.default_rng(3), 1.0)
    small, large = result[0, 2:4, 2:4, 2:4], result[0, 8:12, 8:12, 8:12]
    assert (small.min(), small.max()) == (small.max(), small.min())
    assert 1.0 < small.max() <= 1.5
    assert 1.5 <= large.min() < 2.0
    assert torch.equal(result == 0, picture == 0)
    assert result[0, 0, 0, 0] == 7.0
    other = Targets(boxes, torch.tensor([0, 1]))
    assert torch.equal(mixed_objects(picture, other, np.random.default_rng(3), 1.0), picture)


def test_what_the_partner_ignores_counts_where_nothing_of_it_is_mixed_in():
    student, unlabeled = tiny_detector(RetinaNet), UnlabeledBatch(image(1, 5), image(1, 6), seeds=(3,))
    nothing = torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)

    def loss(ignore: torch.Tensor, mixup: float) -> float:
        partner = [Targets(*nothing, ignore=ignore)]
        found = FocalMix(mixup=mixup).losses(student, student, image(1), partner, unlabeled)
        return found.losses["classification"].item()

    everywhere = torch.tensor([[0.0, 0, 0, 16, 16, 16]])
    assert loss(everywhere, 0.0) == loss(everywhere[:0], 0.0) > 0
    assert loss(everywhere, 5.0) == 0  # a mixture shows what is there
