from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.statistics import effect_of, leave_one_out_weights, mean_variance, pseudo_values, variance_components
from medpretrain3d.statistics.pseudo_values import jackknife_variance
from medpretrain3d.statistics.two_way import VarianceComponents


def test_pseudo_values_of_a_mean_are_the_values_themselves():
    values = np.array([1.0, 4.0, 2.0, 9.0])
    weights = leave_one_out_weights(4)
    without = weights @ values / weights.sum(axis=1)
    assert pseudo_values(values.mean(), without) == pytest.approx(values)
    assert jackknife_variance(without) == pytest.approx(values.var(ddof=1) / 4)


def test_many_scans_are_left_out_in_groups_and_each_once():
    weights = leave_one_out_weights(1000, max_groups=200)
    assert weights.shape == (200, 1000)
    assert ((1 - weights).sum(axis=0) == 1).all()
    assert set((1 - weights).sum(axis=1)) == {5}
    values = np.random.default_rng(0).normal(size=1000)
    without = weights @ values / weights.sum(axis=1)
    assert jackknife_variance(without) == pytest.approx(values.var() / 1000, rel=0.3)


def test_a_rounding_of_the_metric_moves_no_pseudo_value():
    # Each leave-one-out value a hair below: 100 times that would be a bias of 0.1.
    assert pseudo_values(0.5, np.full(100, 0.499)).mean() == pytest.approx(0.5)


def test_variance_of_two_seeds_and_two_scans_by_hand():
    # Row means 1 and 5, column means 2 and 4; residuals +-1, so MS_res = 4.
    pseudo = np.array([[-1.0, 3.0], [5.0, 5.0]])
    variance = mean_variance(pseudo)
    assert (variance.of_seeds, variance.of_scans, variance.of_interaction) == pytest.approx((4.0, 1.0, 1.0))
    assert variance.total == pytest.approx(4.0)
    assert variance.degrees_of_freedom == pytest.approx(1.0)  # 16 / (16 + 1), held at S - 1
    components = variance_components(pseudo)
    assert (components.seed, components.scan, components.interaction) == pytest.approx((6.0, 0.0, 4.0))


def test_the_variance_is_never_below_either_part():
    generator = np.random.default_rng(1)
    for _ in range(50):
        variance = mean_variance(generator.normal(size=(3, 8)))
        assert variance.total >= max(variance.of_seeds, variance.of_scans)
        assert 2 <= variance.degrees_of_freedom <= 24


def test_components_are_found_again_and_predict_the_variance_of_the_mean():
    generator = np.random.default_rng(2)
    true = VarianceComponents(seed=0.04, scan=0.25, interaction=0.5)
    found, means = [], []
    for _ in range(400):
        pseudo = (
            generator.normal(0, 0.2, (5, 1))
            + generator.normal(0, 0.5, (1, 20))
            + generator.normal(0, 0.5**0.5, (5, 20))
        )
        found.append(variance_components(pseudo))
        means.append(pseudo.mean())
    for name in ("seed", "scan", "interaction"):
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(getattr(true, name), rel=0.12)
    assert true.of_mean(5, 20) == pytest.approx(np.var(means), rel=0.2)


def test_one_seed_knows_the_scans_only():
    effect = effect_of("mae", np.array([[0.1, 0.3] * 6]))
    assert effect.num_seeds == 1
    assert effect.degrees_of_freedom == 11
    assert not effect.is_about_method
    low, high = effect.interval(0.95)
    # 0.2 +- t(11, .975) * 0.1044 / sqrt(12)
    assert (low, high) == pytest.approx((0.1337, 0.2663), abs=1e-4)


def test_components_of_what_does_not_exist_are_not_zero():
    pseudo = np.zeros((3, 12))
    assert not variance_components(pseudo).is_known
    pseudo[1, 4] = np.nan
    components = variance_components(pseudo)
    assert np.isnan([components.seed, components.scan, components.interaction]).all()
    assert not components.is_known


def test_components_of_one_seed_are_refused():
    with pytest.raises(ValueError, match="1 seeds"):
        variance_components(np.zeros((1, 10)))


def test_arms_that_differ_by_rounding_do_not_differ():
    noise = np.random.default_rng(0).choice([0.0, 1e-16], (3, 12)) + 1e-16
    effect = effect_of("twin", noise)
    assert (effect.difference, effect.standard_error, effect.p_value) == (0.0, 0.0, 1.0)
    real = effect_of("better", np.full((3, 12), 0.01) + noise)
    assert (real.difference, real.p_value) == (pytest.approx(0.01), 0.0)
