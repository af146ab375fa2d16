from __future__ import annotations

import math

import pytest
import torch

from pretrain.representation import (
    class_mean_accuracy,
    effective_rank,
    feature_std,
    knn_accuracy,
    linear_accuracy,
    psnr,
)


def test_effective_rank_of_known_matrices():
    corners = torch.cat([torch.eye(4), -torch.eye(4)])  # mean 0, four equal singular values
    assert effective_rank(corners) == pytest.approx(4)
    line = torch.tensor([[0.0, 0, 0], [1, 2, 3], [2, 4, 6]])
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(torch.full((5, 3), 7.3)) == 0
    # Singular values 3 and 1 (times a root of 2): shares 3/4 and 1/4.
    uneven = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(uneven) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


def test_effective_rank_asks_neither_scale_nor_mean():
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert effective_rank(10 * rows + 3) == pytest.approx(effective_rank(rows), rel=1e-4)


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
