from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medpretrain3d.statistics import (
    AT_LIMIT,
    ArmScores,
    Effect,
    Verdict,
    area_scores,
    arm_effect,
    difference_pseudo_values,
    judge,
    pilot_components,
    pool,
)

SCANS = tuple(map(str, range(12)))


def scores(name="mae", seeds=(0, 1, 2), shift=0.0, scans=SCANS):
    generator = np.random.default_rng(0)
    without = np.stack([0.4 + 0.01 * seed + generator.normal(0, 0.001, len(scans)) for seed in range(3)])
    rows = [seed % 3 for seed in seeds]
    return ArmScores(name, seeds, without.mean(axis=1)[rows] + shift, without[rows] + shift, scans)


def test_pairs_are_of_the_same_seed_whatever_their_order():
    effect = arm_effect(scores(seeds=(2, 0), shift=0.1), scores("scratch"))
    assert (effect.difference, effect.standard_error) == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))
    assert (effect.num_seeds, effect.num_scans, effect.name) == (2, 12, "mae")


def test_what_has_no_pair_is_refused():
    with pytest.raises(ValueError, match="none is in both"):
        difference_pseudo_values(scores(seeds=(3,)), scores("scratch"))
    with pytest.raises(ValueError, match="other scans"):
        difference_pseudo_values(scores(), scores("scratch", scans=("x", *SCANS[1:])))
    with pytest.raises(ValueError, match="twice"):
        scores(seeds=(0, 0))
    with pytest.raises(ValueError, match="values"):
        ArmScores("mae", (0,), np.zeros(2), np.zeros((1, 12)), SCANS)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_arms_at_a_limit_of_the_metric_are_not_equivalent(limit):
    alike = [ArmScores(name, (0, 1), np.full(2, limit), np.full((2, 12), limit), SCANS) for name in ("mae", "scratch")]
    effect = arm_effect(*alike)
    assert effect.is_at_limit
    (judged,) = judge([effect], delta=0.05)
    assert (judged.verdict, judged.reason) == (Verdict.NONE, AT_LIMIT)
    assert np.isnan([*judged.interval, effect.p_value]).all()
    assert np.isnan(judge([arm_effect(*(area_scores([1, 4], [one] * 2) for one in alike))])[0].p_value)
    # A copy that varies as its original does is as it was, and so is what lies at the other limit.
    assert judge([arm_effect(scores(), scores("scratch"))], delta=0.05)[0].verdict is Verdict.EQUIVALENT
    other = ArmScores("mae", (0, 1), np.full(2, 1 - limit), np.full((2, 12), 1 - limit), SCANS)
    assert judge([arm_effect(other, alike[1])])[0].verdict in (Verdict.BETTER, Verdict.WORSE)


def test_a_data_set_at_a_limit_tells_a_pool_nothing():
    known = [Effect("mae", one, 0.01, 9.0, num_seeds=3, num_scans=12) for one in (0.1, 0.12, 0.08)]
    pooled = pool([*known, Effect("mae", 0.0, 0.0, 2.0, num_seeds=3, num_scans=12, is_at_limit=True)])
    assert pooled == pool(known)  # an error of 0 would have all of the weight


def test_the_area_is_a_metric_like_another():
    area = area_scores([1, 4], [scores(seeds=(0, 1), shift=0.0), scores(seeds=(1, 0, 2), shift=0.2)])
    assert area.seeds == (0, 1)
    assert area.values == pytest.approx(scores(seeds=(0, 1)).values + 0.1)
    assert arm_effect(area, area_scores([1, 4], [scores()] * 2)).difference == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no seed"):
        area_scores([1, 4], [scores(seeds=(0,)), scores(seeds=(1,))])
    with pytest.raises(ValueError, match="other scans"):
        area_scores([1, 4], [scores(), scores(scans=("x", *SCANS[1:]))])


def test_a_pilot_gives_components():
    assert pilot_components(scores(shift=0.1), scores("scratch")).seed == pytest.approx(0, abs=1e-9)


def of_patients(one, patient):
    """Return scores whose scans are of some patients: the values without each are of these."""
    without = np.stack([one.without[:, np.array(patient) == who].mean(axis=1) for who in set(patient)], axis=1)
    return replace(one, without=without, patient=tuple(patient))


def test_patients_decide_and_not_their_scans():
    """Twelve scans of six patients are too few for a verdict, and an effect rests on patients."""
    patient = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    arm, baseline = (of_patients(one, patient) for one in (scores(shift=0.1), scores("scratch")))
    effect = arm_effect(arm, baseline)
    assert (effect.num_scans, effect.num_patients, effect.has_interval) == (12, 6, False)
    (judged,) = judge([effect])
    assert (judged.verdict, judged.reason) == (Verdict.NONE, "12 test scans of 6 patients; an interval needs 10")
    own = [of_patients(one, range(12)) for one in (scores(shift=0.1), scores("scratch"))]
    assert arm_effect(*own) == arm_effect(scores(shift=0.1), scores("scratch"))
    with pytest.raises(ValueError, match="other scans"):
        difference_pseudo_values(arm, scores("scratch"))
    known = [Effect("mae", one, 0.01, 9.0, num_seeds=3, num_scans=24, of_patients=12) for one in (0.1, 0.12, 0.08)]
    assert (pool(known).effect.num_scans, pool(known).effect.num_patients) == (72, 36)
