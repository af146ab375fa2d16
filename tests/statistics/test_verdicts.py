from __future__ import annotations

import math

import numpy as np
import pytest

from medpretrain3d.statistics import ONE_RUN_EACH, Effect, Verdict, holm, judge


def effect(difference: float, error: float = 0.01, seeds: int = 5, scans: int = 100, name: str = "mae") -> Effect:
    return Effect(name, difference, error, 1000.0, num_seeds=seeds, num_scans=scans)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.4])[[0, 2]] == pytest.approx([0.8, 0.8])
    assert holm([0.0, 0.0]) == pytest.approx([0, 0])
    assert len(holm([])) == 0


@pytest.mark.parametrize(
    ("difference", "delta", "verdict"),
    [
        (0.05, None, Verdict.BETTER),
        (-0.05, None, Verdict.WORSE),
        (0.01, None, Verdict.INCONCLUSIVE),  # no delta was declared: nothing is called equal
        (0.003, 0.02, Verdict.EQUIVALENT),  # 0.003 + 1.646 * 0.01 < 0.02
        (0.004, 0.02, Verdict.INCONCLUSIVE),  # 0.004 + 1.646 * 0.01 > 0.02
        (0.021, 0.04, Verdict.BETTER),
    ],
)
def test_the_four_verdicts(difference, delta, verdict):
    assert judge([effect(difference)], delta)[0].verdict is verdict


def test_better_by_less_than_delta_is_said():
    assert judge([effect(0.021)], 0.04)[0].reason == "by less than delta, 0.04"


@pytest.mark.parametrize(
    ("seeds", "scans", "said"), [(1, 1000, ONE_RUN_EACH), (5, 9, "9 test scans"), (1, 2, "2 test scans")]
)
def test_no_verdict_without_seeds_or_scans_however_large_the_difference(seeds, scans, said):
    judgement = judge([effect(0.9, 1e-6, seeds, scans)], 0.02)[0]
    assert judgement.verdict is Verdict.NONE
    assert said in judgement.reason
    assert math.isnan(judgement.corrected_p_value)
    assert math.isnan(judgement.interval[0]) == (scans < 10)


def test_what_is_asked_at_once_is_corrected_and_what_has_no_verdict_is_not_asked():
    one = effect(0.0215)  # p = 0.032
    assert judge([one])[0].verdict is Verdict.BETTER
    assert judge([one, effect(0.0)])[0].verdict is Verdict.INCONCLUSIVE
    assert judge([one, effect(0.0, seeds=1)])[0].verdict is Verdict.BETTER
    assert judge([one, effect(0.1)])[0].verdict is Verdict.BETTER  # Holm: the larger was decided first


def test_what_was_declared_and_is_not_answered_yet_is_corrected_for():
    one = effect(0.0215)
    early, late = judge([one], num_declared=3)[0], judge([one, effect(0.0), effect(0.001)])[0]
    assert early.corrected_p_value == pytest.approx(late.corrected_p_value) == pytest.approx(3 * one.p_value)
    assert (early.verdict, early.num_asked) == (Verdict.INCONCLUSIVE, 3)
    assert judge([one], num_declared=1)[0] == judge([one])[0]


def test_the_same_of_the_baseline_against_the_arm():
    one, other = judge([effect(0.05)], 0.02)[0], judge([effect(-0.05)], 0.02)[0]
    assert one.mirrored.verdict is other.verdict is Verdict.WORSE
    for name in ("interval", "corrected_interval", "equivalence_interval"):
        assert getattr(one.mirrored, name) == pytest.approx(getattr(other, name))
    assert one.mirrored.mirrored == one


def test_the_corrected_interval_excludes_0_exactly_where_the_verdict_says_so():
    generator = np.random.default_rng(0)
    for _ in range(200):
        for one in judge([effect(value) for value in generator.normal(0, 0.02, 4)]):
            low, high = one.corrected_interval
            assert (low > 0 or high < 0) == (one.verdict in (Verdict.BETTER, Verdict.WORSE))
            assert low <= one.interval[0] <= one.interval[1] <= high


def test_nothing_differs_at_all():
    judgement = judge([effect(0.0, 0.0)], 0.02)[0]
    assert (judgement.verdict, judgement.p_value) == (Verdict.EQUIVALENT, 1.0)
    assert judge([effect(0.0, 0.0)])[0].verdict is Verdict.INCONCLUSIVE
    assert judge([effect(0.3, 0.0), effect(0.2, 0.0)])[1].verdict is Verdict.BETTER


def test_a_number_that_is_not_known_has_no_verdict():
    judgement = judge([effect(math.nan)], 0.02)[0]
    assert (judgement.verdict, judgement.reason) == (Verdict.NONE, "the difference is not known")


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="delta is 0"):
        judge([effect(0.1)], 0.0)
    with pytest.raises(ValueError, match="confidence is 95"):
        judge([effect(0.1)], confidence=95)
