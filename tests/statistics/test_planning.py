from __future__ import annotations

import math

import numpy as np
import pytest

from medpretrain3d.statistics import (
    designs,
    detectable_difference,
    effect_of,
    judge,
    power,
    settling_designs,
)
from medpretrain3d.statistics.planning import MAX_SEEDS
from medpretrain3d.statistics.two_way import VarianceComponents

PILOT = VarianceComponents(seed=2 * 0.015**2, scan=0.1**2, interaction=0.1**2)


def test_many_degrees_of_freedom_are_the_normal_case():
    # (1.95996 + 0.84162) standard errors show with 80 %.
    scans_only = VarianceComponents(0.0, 1.0, 0.0)
    assert detectable_difference(scans_only, 50, 10_000) == pytest.approx(2.8016 / 100, rel=1e-3)
    assert power(2.8016 / 100, scans_only, 50, 10_000) == pytest.approx(0.8, abs=1e-3)
    assert power(0.0, scans_only, 50, 10_000) == pytest.approx(0.05, abs=1e-3)


def test_more_of_anything_shows_less_and_more_arms_show_more():
    table = {(one.num_seeds, one.num_scans): one.detectable_difference for one in designs(PILOT, (3, 5), (20, 200))}
    assert table[3, 20] > table[5, 20] > table[5, 200]
    assert table[3, 20] > table[3, 200] > table[5, 200]
    assert detectable_difference(PILOT, 5, 20, num_arms=6) > table[5, 20]


def test_a_design_without_verdicts_shows_nothing():
    assert detectable_difference(PILOT, 1, 1000) == math.inf
    assert detectable_difference(PILOT, 10, 8) == math.inf
    assert power(1.0, PILOT, 1, 1000) == 0


@pytest.mark.parametrize("of", [(0.0, 0.0, 0.0), (math.nan,) * 3, (0.1, math.nan, 0.1), (0.0, math.inf, 0.0)])
def test_a_spread_that_is_not_known_plans_nothing(of):
    unknown = VarianceComponents(*of)
    assert not unknown.is_known
    for plan in (detectable_difference, settling_designs):
        with pytest.raises(ValueError, match="nothing is known of the spread"):
            plan(unknown, 3, 40, 0.5)
    with pytest.raises(ValueError, match="nothing is known of the spread"):
        power(0.1, unknown, 3, 40)


@pytest.mark.parametrize(("seeds", "scans"), [(3, 40), (5, 100), (10, 30)])
def test_the_planned_power_is_what_simulated_studies_have(seeds, scans):
    generator = np.random.default_rng(0)
    difference = detectable_difference(PILOT, seeds, scans)
    found = 0
    for _ in range(1500):
        pseudo = (
            difference
            + generator.normal(0, PILOT.seed**0.5, (seeds, 1))
            + generator.normal(0, PILOT.scan**0.5, (1, scans))
            + generator.normal(0, PILOT.interaction**0.5, (seeds, scans))
        )
        found += judge([effect_of("mae", pseudo)])[0].verdict == "better"
    assert found / 1500 == pytest.approx(0.8, abs=0.05)


def test_a_study_that_settles_is_the_smallest_that_shows_the_difference():
    seeds, scans = settling_designs(PILOT, 5, 40, 0.05)
    assert (seeds.num_scans, scans.num_seeds) == (40, 5)
    one_less = detectable_difference(PILOT, seeds.num_seeds - 1, 40)
    assert detectable_difference(PILOT, seeds.num_seeds, 40) <= 0.05 < one_less
    assert detectable_difference(PILOT, 5, scans.num_scans) == scans.detectable_difference <= 0.05
    assert [one.num_seeds > 3 or one.num_scans > 40 for one in settling_designs(PILOT, 3, 40, 1.0)] == [True, True]


def test_where_nothing_settles_nothing_is_named():
    of_scans = VarianceComponents(seed=0.0, scan=1.0, interaction=0.0)  # seeds do not help
    assert [one.num_seeds for one in settling_designs(of_scans, 3, 40, 0.1)] == [3]
    of_seeds = VarianceComponents(seed=0.1**2, scan=0.0, interaction=0.0)
    assert [one.num_scans for one in settling_designs(of_seeds, 3, 40, 0.05)] == [40]
    assert settling_designs(VarianceComponents(1.0, 1.0, 1.0), 3, 40, 0.01) == []
    assert all(one.num_seeds <= MAX_SEEDS for one in settling_designs(PILOT, 3, 40, 0.03))
