from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.probing import effective_rank


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
