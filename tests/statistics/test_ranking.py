from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.statistics import ranking_stability


def test_an_arm_that_always_wins_is_always_first():
    base = np.random.default_rng(0).normal(0.4, 0.1, (3, 20))
    ranking = ranking_stability(["a", "b", "c"], np.stack([base, base + 0.2, base + 0.1]))
    assert ranking.names == ("b", "c", "a")
    assert ranking.shares_first == (1, 0, 0)
    assert ranking.kendall_tau == 1
    assert ranking.means[0] - ranking.means[2] == pytest.approx(0.2)


def test_arms_that_are_alike_share_the_first_place():
    base = np.random.default_rng(0).normal(0.4, 0.1, (2, 20))
    assert ranking_stability(["a", "b"], np.stack([base, base])).shares_first == (0.5, 0.5)


def test_what_is_chance_is_unstable():
    arms = np.random.default_rng(1).normal(0.4, 0.1, (4, 3, 20))
    arms += 0.4 - arms.mean(axis=(1, 2), keepdims=True)
    ranking = ranking_stability(list("abcd"), arms)
    assert sum(ranking.shares_first) == pytest.approx(1)
    assert max(ranking.shares_first) < 0.5
    assert abs(ranking.kendall_tau) < 0.3
    assert ranking == ranking_stability(list("abcd"), arms)
