from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from medpretrain3d.statistics import jackknife_variance, leave_one_out_weights, rate_interval, share_interval


def without(values: np.ndarray) -> np.ndarray:
    weights = leave_one_out_weights(len(values))
    return weights @ values / weights.sum(axis=1)


def test_all_found_is_no_certainty():
    # P(12 of 12) = 0.025 at a rate of 0.025^(1/12).
    assert share_interval(1.0, np.ones(12), 0.95, 12) == pytest.approx((0.025 ** (1 / 12), 1.0))
    assert share_interval(0.0, np.zeros(12), 0.95, 12) == pytest.approx((0.0, 1 - 0.025 ** (1 / 12)))


def test_all_scans_alike_count_as_draws():
    exact = binomtest(10, 20).proportion_ci(0.95)
    low, high = share_interval(0.5, np.full(20, 0.5), 0.95, 20)
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_rounding_is_no_spread():
    """Sums of 5 / 9 in another order: 20 scans that agree count as 20 draws, not as 1e30."""
    noisy = 5 / 9 + np.random.default_rng(0).choice([-2e-16, 0.0, 2e-16], 20)
    assert len(set(noisy)) > 1
    assert share_interval(5 / 9, noisy, 0.95, 20) == pytest.approx(share_interval(5 / 9, np.full(20, 5 / 9), 0.95, 20))
    assert share_interval(5 / 9, noisy, 0.95, 20)[1] > 0.7
    assert rate_interval(5 / 9, noisy, 0.95, 20) == pytest.approx(rate_interval(5 / 9, np.full(20, 5 / 9), 0.95, 20))
    low, high = 0.025 ** (1 / 12), 1 - 0.025 ** (1 / 12)
    for one in (1 - 1e-16, 1 + 3e-16):
        assert share_interval(one, np.full(12, 1.0) - 1e-16, 0.95, 12) == pytest.approx((low, 1.0))
    for one in (1e-17, -1e-17):
        assert share_interval(one, np.array([0.0, 1e-17] * 6), 0.95, 12) == pytest.approx((0.0, high))


def test_the_smallest_spread_that_a_metric_has_is_one():
    found = np.ones(5000)
    found[0] = 0.99  # one recall level of one of 5,000 scans
    assert jackknife_variance(without(found)) == pytest.approx(found.var(ddof=1) / 5000, rel=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.95])
def test_shares_of_single_objects_are_covered(rate):
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = (generator.random(15) < rate).astype(float)
        low, high = share_interval(found.mean(), without(found), 0.95, 15)
        hits += low <= rate <= high
    assert hits / 400 >= 0.93


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_rates_of_false_positives_are_covered(spread):
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        counts = generator.poisson(2 * np.exp(generator.normal(0, spread, 20))).astype(float)
        low, high = rate_interval(counts.mean(), without(counts), 0.95, 20)
        hits += low <= 2 * math.exp(spread**2 / 2) <= high
    assert hits / 400 >= (0.93 if spread == 0 else 0.88)  # a log-normal with 20 scans is hard for every method


def test_no_event_in_ten_scans():
    # Garwood: -ln(0.025) / 10.
    assert rate_interval(0.0, np.zeros(10), 0.95, 10) == pytest.approx((0.0, 0.36889), abs=1e-5)


def test_few_scans_and_unknown_numbers_have_no_interval():
    for one in (share_interval, rate_interval):
        assert all(map(math.isnan, one(0.5, np.full(9, 0.5), 0.95, 9)))
        assert all(map(math.isnan, one(math.nan, np.full(20, 0.5), 0.95, 20)))
        assert all(map(math.isnan, one(0.5, np.array([math.nan, *[0.5] * 19]), 0.95, 20)))


def test_the_interval_holds_the_value_and_lies_in_0_to_1():
    generator = np.random.default_rng(2)
    for _ in range(100):
        values = generator.beta(5, 1, 30)
        low, high = share_interval(values.mean(), without(values), 0.95, 30)
        assert 0 <= low < values.mean() < high <= 1
        assert jackknife_variance(without(values)) == pytest.approx(values.var(ddof=1) / 30)
