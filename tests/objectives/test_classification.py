from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.objectives import CaseClassification
from tests.tiny import tiny_backbone
from tests.tiny_objectives import case_labelled_batch

CLASSES = (("a", "b", "c"),)


def undecided(**options: object) -> CaseClassification:
    """Logits of 0, whatever the image."""
    objective = CaseClassification(tiny_backbone(), CLASSES, **options)
    for parameter in objective.head.parameters():
        torch.nn.init.zeros_(parameter)
    return objective


def test_undecided_losses_by_hand():
    batch = case_labelled_batch("ResEnc")
    one_of_three = undecided()({**batch, "case_label": torch.tensor([0, 2])})
    assert one_of_three.loss.item() == pytest.approx(math.log(3))
    several = undecided()({**batch, "case_label": torch.tensor([[0.0, 0, 0], [1, 0, 1]])})
    assert several.loss.item() == pytest.approx(math.log(2))
    assert several.logs["accuracy"].item() == pytest.approx(4 / 6)  # nothing is found, four are absent


def test_preview_shows_how_likely_the_label_looks_from_each_place():
    batch = case_labelled_batch("ResEnc")
    objective = undecided().eval()
    torch.nn.init.constant_(objective.head[-1].bias[:1], math.log(2))  # probabilities 1/2, 1/4, 1/4
    preview = objective({**batch, "case_label": torch.tensor([2, 0])}).preview
    assert list(preview) == ["input", "c?"]
    torch.testing.assert_close(preview["c?"], torch.full_like(preview["input"], 2 * 0.25 - 1))
    several = objective({**batch, "case_label": torch.tensor([[1.0, 0, 0], [0, 0, 1]])}).preview
    torch.testing.assert_close(several["a?"], torch.full_like(several["input"], 2 * 2 / 3 - 1))


def test_class_weights_by_hand():
    batch = case_labelled_batch("ResEnc")
    objective = undecided(class_weights={"b": 3.0})
    torch.nn.init.constant_(objective.head[-1].bias[:1], math.log(2))  # probabilities 1/2, 1/4, 1/4
    loss = objective({**batch, "case_label": torch.tensor([0, 1])}).loss
    assert loss.item() == pytest.approx((1 * math.log(2) + 3 * math.log(4)) / 4)
    present = undecided(class_weights={"b": 3.0})({**batch, "case_label": torch.tensor([[0.0, 1, 0]] * 2)}).loss
    assert present.item() == pytest.approx((1 + 3 + 1) / 3 * math.log(2))


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="class_weights names 'd', which is no label; labels: a, b, c"):
        CaseClassification(tiny_backbone(), CLASSES, class_weights={"d": 2.0})
    with pytest.raises(UserError, match="pretrain the ViT inside it"):
        CaseClassification(tiny_backbone("TokenPyramid"), CLASSES)
    with pytest.raises(UserError, match="the batch has no case_label"):
        undecided()({"image": torch.zeros(1, 1, 16, 16, 16)})
