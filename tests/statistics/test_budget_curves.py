from __future__ import annotations

import math

import numpy as np
import pytest

from medpretrain3d.statistics import area_over_log, efficiency_ratio, reaching_ratio


def test_area_is_the_mean_height_over_log_n():
    assert area_over_log([1, 2, 4], np.array([0.1, 0.3, 0.3])) == pytest.approx(0.25)
    assert area_over_log([10, 1000], np.array([[0.2, 0.4], [0.5, 0.5]])) == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("budgets", [[4], [4, 4], [0, 4], [8, 4]])
def test_budgets_that_do_not_rise_are_refused(budgets):
    with pytest.raises(ValueError, match="rise above 0"):
        area_over_log(budgets, np.zeros(len(budgets)))


def test_an_arm_that_needs_half_of_the_labels():
    baseline = np.array([[0.1, 0.2, 0.3, 0.4]] * 3)
    arm = np.array([[0.2, 0.3, 0.4, 0.5]] * 3)
    ratio = efficiency_ratio([1, 2, 4, 8], baseline, arm, at=2)
    assert ratio.value == pytest.approx(2)
    assert ratio.share == pytest.approx(0.5)
    assert ratio.interval == pytest.approx((2, 2))
    assert str(ratio) == "needs 0.50 [0.50, 0.50] of the budget"


def test_what_lies_beyond_the_largest_budget_is_a_bound():
    baseline, arm = np.array([[0.1, 0.2, 0.3]] * 2), np.array([[0.2, 0.4, 0.5], [0.2, 0.3, 0.5]])
    ratio = efficiency_ratio([1, 2, 4], baseline, arm, at=2)
    assert (ratio.num_beyond, ratio.value) == (1, pytest.approx(2))
    assert ratio.interval[1] == math.inf
    assert str(ratio).startswith("needs at most 0.50 [0.00, 0.5")
    assert efficiency_ratio([1, 2, 4], arm, baseline, at=1).num_below == 2
    assert str(efficiency_ratio([1, 2, 4], arm, baseline, at=1)).startswith("needs at least 1.00")


def test_curves_that_dip_are_made_monotone():
    baseline = np.array([[0.1, 0.3, 0.2, 0.4]])  # becomes 0.1, 0.25, 0.25, 0.4
    ratio = efficiency_ratio([1, 2, 4, 8], baseline, np.array([[0.25] * 4]), at=1)
    assert ratio.value == pytest.approx(2)  # the first budget that reaches it
    assert math.isnan(ratio.interval[0])  # one seed


def test_the_interval_is_over_seeds_on_the_log_scale():
    baseline = np.array([[0.0, 1.0], [0.0, 1.0]])
    arm = np.array([[0.25, 1.0], [0.75, 1.0]])
    ratio = efficiency_ratio([1, 16], baseline, arm, at=1)  # reached at 2 and 8: geometric mean 4
    assert ratio.value == pytest.approx(4)
    assert ratio.interval[1] == pytest.approx(4 * math.exp(12.7062 * math.log(2)), rel=1e-3)
    assert ratio.interval[0] == pytest.approx(4 * math.exp(-12.7062 * math.log(2)), rel=1e-3)


def test_the_share_with_which_an_arm_is_where_the_baseline_ends():
    arm = np.array([[0.1, 0.2, 0.4], [0.1, 0.3, 0.5]])
    ratio = reaching_ratio([0.25, 0.5, 1.0], arm, np.array([0.3, 0.3]))
    assert ratio.share == pytest.approx((2**-0.5 * 0.5) ** 0.5)  # halfway from 0.5 to 1 on the log scale, and at 0.5
    assert not ratio.bound
    labels = reaching_ratio([1, 2, 4], np.array([[0.1, 0.2, 0.4]]), np.array([0.2]), of=4)
    assert labels.share == pytest.approx(0.5)
    beyond = reaching_ratio([0.5, 1, 2], np.array([[0.1, 0.2, 0.4]]), np.array([0.4]))  # needs twice as many
    assert str(beyond) == "needs 2.00 of the budget"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [(0.05, "at most 0.25 [0.00, 0.25]"), (0.1, "at most 0.25 [0.00, 0.25]"), (0.9, "at least 1.00 [1.00, inf]")],
)
def test_a_result_off_the_curve_is_a_bound(wanted, text):
    ratio = reaching_ratio([0.25, 0.5, 1.0], np.array([[0.1, 0.2, 0.4]] * 2), np.full(2, wanted))
    assert ratio.of("steps") == f"needs {text} of the steps"


def test_seeds_cut_off_at_both_ends_say_nothing():
    ratio = reaching_ratio([0.5, 1.0], np.array([[0.1, 0.2]] * 2), np.array([0.05, 0.9]))
    assert (
        str(ratio) == "needs a share of the budget that is not known: a bound from above in 1 seed and from below in 1"
    )


def test_the_interval_covers_the_true_share_of_simulated_studies():
    """An arm that needs half of the steps: both curves rise by log n, the seed moves both, and each run by itself."""
    shares, draws, hits = [0.125, 0.25, 0.5, 1.0], np.random.default_rng(0), 0
    rise = 0.2 + 0.08 * np.log2(shares)
    for _ in range(300):
        seed = draws.normal(0, 0.03, (5, 1))
        arm = rise + 0.08 + seed + draws.normal(0, 0.01, (5, 4))
        final = (rise[-1] + seed + draws.normal(0, 0.01, (5, 1)))[:, 0]
        low, high = reaching_ratio(shares, arm, final).interval
        hits += low <= 2 <= high
    assert 0.92 <= hits / 300 <= 0.98


@pytest.mark.parametrize("place", [0, 1])
def test_where_the_metric_does_not_exist_nothing_is_known(place):
    curves = np.array([[0.2, 0.4], [0.1, 0.4]])
    damaged = curves.copy()
    damaged[1, place] = math.nan  # a search among numbers puts it behind all of them
    ratios = [efficiency_ratio([1, 2], one, other, at=1) for one, other in ((damaged, curves), (curves, damaged))]
    ratios += [reaching_ratio([1, 2], damaged, curves[:, 1]), reaching_ratio([1, 2], curves, damaged[:, place])]
    for ratio in ratios:
        assert not ratio.is_known
        assert math.isnan(ratio.share)
        assert str(ratio) == "needs a share of the budget that is not known: the metric does not exist in every seed"


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="give"):
        reaching_ratio([1, 2], np.zeros((2, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="none of 1, 2"):
        efficiency_ratio([1, 2], np.zeros((2, 2)), np.zeros((2, 2)), at=3)
    with pytest.raises(ValueError, match="shape"):
        efficiency_ratio([1, 2], np.zeros((2, 2)), np.zeros((3, 2)), at=1)
