"""Simulated studies with real AP of simulated detections: what claims 95 % covers, and what claims 5 % errs.

The same for more designs: `python -m benchmarks.coverage`, table in docs/statistics.md.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np

from medpretrain3d.evaluation.simulation import SimulatedArm, simulate_arms, simulate_scans, true_map
from medpretrain3d.statistics import (
    ArmScores,
    Verdict,
    arm_effect,
    detectable_difference,
    judge,
    pilot_components,
    share_interval,
    sign_flip_p,
)
from medpretrain3d.statistics.two_way import VarianceComponents

NUM_STUDIES = 400
NUM_SCANS = (10, 16, 25, 40, 60, 100)
SEED_SDS = (0.0, 0.01, 0.02, 0.03)
DESIGNS = list(itertools.islice(itertools.cycle(itertools.product(NUM_SCANS, SEED_SDS)), NUM_STUDIES))
SKILL = 0.5


def scores(name: str, arm: SimulatedArm, num_scans: int) -> ArmScores:
    return ArmScores(name, tuple(range(len(arm.values))), arm.values, arm.without, tuple(map(str, range(num_scans))))


def studies(num_seeds: int, num_arms: int) -> list[list[ArmScores]]:
    """Arms of the same skill: whatever differs is chance."""
    generator = np.random.default_rng(num_seeds)
    drawn = []
    for num_scans, seed_sd in DESIGNS:
        arms = simulate_arms(generator, simulate_scans(generator, num_scans), [SKILL] * num_arms, num_seeds, seed_sd)
        drawn.append([scores(str(place), arm, num_scans) for place, arm in enumerate(arms)])
    return drawn


@cache
def population() -> tuple[np.ndarray, np.ndarray]:
    skills = np.linspace(SKILL - 0.6, SKILL + 0.6, 7)
    return skills, true_map(skills.tolist())


def test_null_studies_of_five_seeds():
    covered, wrong = [], 0
    for baseline, *arms in studies(num_seeds=5, num_arms=3):
        judged = judge([arm_effect(arm, baseline) for arm in arms], delta=0.02)
        covered += [low <= 0 <= high for low, high in (one.interval for one in judged)]
        wrong += any(one.verdict in (Verdict.BETTER, Verdict.WORSE) for one in judged)
    assert 0.93 <= np.mean(covered) <= 0.98
    assert wrong / NUM_STUDIES <= 0.05


def test_null_studies_of_one_seed_have_an_interval_of_their_pair_and_no_verdict():
    generator = np.random.default_rng(1)
    skills, truth = population()
    of_pair, of_value, of_method, p_values = [], [], [], []
    for num_scans, seed_sd in DESIGNS:
        a, b = simulate_arms(generator, simulate_scans(generator, num_scans), [SKILL] * 2, 1, seed_sd)
        true_a, true_b = np.interp([a.skills[0], b.skills[0]], skills, truth)
        effect = arm_effect(scores("b", b, num_scans), scores("a", a, num_scans))
        (judged,) = judge([effect], delta=0.02)
        assert judged.verdict is Verdict.NONE
        low, high = judged.interval
        of_pair.append(low <= true_b - true_a <= high)
        of_method.append(low <= 0 <= high)
        low, high = share_interval(float(a.values[0]), a.without[0], 0.95, num_scans)
        of_value.append(low <= true_a <= high)
        if seed_sd == 0:
            pseudo = scores("b", b, num_scans).pseudo - scores("a", a, num_scans).pseudo
            p_values.append(sign_flip_p(pseudo[0], 999))
    assert 0.93 <= np.mean(of_pair) <= 0.98
    assert 0.93 <= np.mean(of_value) <= 0.98
    assert np.mean(np.array(p_values) <= 0.05) <= 0.08  # of 100: 5 and two standard errors
    # Why there is no verdict: taken for an interval of the method it fails where seeds differ.
    large = [hit for hit, (scans, sd) in zip(of_method, DESIGNS, strict=True) if scans >= 40 and sd >= 0.02]
    assert np.mean(large) < 0.93


def test_eight_scans_claim_nothing():
    generator = np.random.default_rng(2)
    for _ in range(20):
        arms = simulate_arms(generator, simulate_scans(generator, 8), [SKILL, SKILL], 5, 0.02)
        a, b = (scores(name, arm, 8) for name, arm in zip("ab", arms, strict=True))
        judged = judge([arm_effect(b, a)])[0]
        assert judged.verdict is Verdict.NONE
        assert np.isnan(judged.interval).all()


def test_the_power_is_the_planned_one():
    generator = np.random.default_rng(3)
    num_seeds, num_scans, seed_sd = 5, 40, 0.02
    skills, truth = population()

    def study(difference: float) -> tuple[ArmScores, ArmScores]:
        """Two arms whose true AP is 0.6 and differs by so much."""
        of_arms = np.interp([0.6 - difference / 2, 0.6 + difference / 2], truth, skills)
        a, b = simulate_arms(generator, simulate_scans(generator, num_scans), of_arms.tolist(), num_seeds, seed_sd)
        return scores("b", b, num_scans), scores("a", a, num_scans)

    pilots = [pilot_components(*study(0.14)) for _ in range(80)]
    mean = VarianceComponents(*(float(np.mean([getattr(one, key) for one in pilots])) for key in vars(pilots[0])))
    wanted = detectable_difference(mean, num_seeds, num_scans)
    assert 0.1 < wanted < 0.18
    found = [judge([arm_effect(*study(wanted))])[0].verdict is Verdict.BETTER for _ in range(300)]
    assert abs(np.mean(found) - 0.8) <= 0.05
