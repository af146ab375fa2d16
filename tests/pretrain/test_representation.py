from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.probing import effective_rank
from pretrain.representation import class_mean_accuracy, feature_std, knn_accuracy, linear_accuracy, psnr


def test_feature_std_of_known_rows():
    assert feature_std(torch.tensor([[1.0, 2, 3], [2, 4, 6]])) == pytest.approx(0, abs=1e-7)  # one direction
    # Directions +-e0 and +-e1: each channel is 1, -1, 0, 0 with variance 1/2, and sqrt(C) is sqrt(2).
    assert feature_std(torch.cat([torch.eye(2), -torch.eye(2)])) == pytest.approx(1)


def test_accuracies_of_rows_that_are_apart_and_of_labels_that_say_nothing():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    rows = 3 * torch.eye(3)[labels] + 0.1 * torch.randn(60, 3, generator=random)
    apart = (rows[:30], labels[:30], rows[30:], labels[30:])
    assert knn_accuracy(*apart) == linear_accuracy(*apart) == 1
    same = torch.ones(60, 3)
    assert linear_accuracy(same[:30], labels[:30], same[30:], labels[30:]) == pytest.approx(1 / 3)


def test_a_class_counts_once_however_large():
    assert class_mean_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])) == 0.5


def test_what_cannot_be_known_is_no_number():
    rows, other, labels = torch.eye(4), torch.eye(4) + 0.1, torch.tensor([0, 1, 0, 1])
    for accuracy in (knn_accuracy, linear_accuracy):
        assert accuracy(rows, labels, other, labels) == 1
        assert math.isnan(accuracy(rows, torch.ones(4, dtype=torch.long), other, labels))
        assert accuracy(rows, torch.ones(4, dtype=torch.long), other, torch.ones(4, dtype=torch.long)) == 1
        for value in (math.nan, math.inf):
            broken = rows.clone()
            broken[0, 0] = value
            assert math.isnan(accuracy(broken, labels, other, labels))
            assert math.isnan(accuracy(other, labels, broken, labels))
            assert math.isnan(effective_rank(broken))
            assert math.isnan(feature_std(broken))
    assert math.isnan(linear_accuracy(rows[:1], labels[:1], other[:1], labels[:1]))


def test_psnr_by_hand():
    image = torch.zeros(2, 2, 2)
    restored = torch.full((2, 2, 2), 5.0)
    restored[0] = 0.2  # mean squared error 0.04 where asked, of a peak of 2: 10 log10(4 / 0.04)
    where = torch.zeros(2, 2, 2, dtype=torch.bool)
    where[0] = True
    assert psnr(restored, image, where) == pytest.approx(20, abs=1e-5)
