from __future__ import annotations

import math

import numpy as np
import pytest

from medpretrain3d.statistics import Effect, Verdict, judge, pool


def effects(differences, errors, scans=50, name="mae"):
    return [Effect(name, d, e, 20.0, 5, scans) for d, e in zip(differences, errors, strict=True)]


def test_equal_data_sets_by_hand():
    pooled = pool(effects([0.01, 0.03, 0.05], [0.01, 0.01, 0.01]))
    assert pooled.effect.difference == pytest.approx(0.03)
    # Q = 8 and k - 1 = 2, so tau^2 = 6 / (30000 - 10000); the mean of three has the SE of their spread.
    assert pooled.between_sd == pytest.approx(math.sqrt(3e-4))
    assert pooled.effect.standard_error == pytest.approx(0.02 / math.sqrt(3))
    _, high = pooled.effect.interval(0.95)
    assert high - pooled.effect.difference == pytest.approx(4.3027 * 0.011547, abs=1e-5)
    _, high = pooled.prediction_interval(0.95)
    assert high - 0.03 == pytest.approx(12.7062 * math.hypot(math.sqrt(3e-4), 0.011547), abs=1e-4)


def test_two_data_sets_make_no_claim():
    pooled = pool(effects([0.2, 0.21], [0.001, 0.001]))
    assert math.isnan(pooled.effect.interval(0.95)[0])
    assert math.isnan(pooled.prediction_interval(0.95)[0])
    judgement = judge([pooled.effect])[0]
    assert (judgement.verdict, judgement.reason) == (Verdict.NONE, "2 data sets; a claim about others needs 3")


def test_a_data_set_of_few_scans_is_left_out():
    small = effects([0.5], [0.01], scans=8)
    assert pool([*effects([0.1] * 3, [0.01] * 3), *small]).effect.num_data_sets == 3


def test_arms_are_not_pooled_with_others():
    with pytest.raises(ValueError, match="mae, voco"):
        pool([*effects([0.1], [0.1]), *effects([0.1], [0.1], name="voco")])


def test_coverage_over_data_sets():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        errors = generator.uniform(0.01, 0.03, 5)
        found = generator.normal(0.02, np.hypot(0.02, errors))
        low, high = pool(effects(found, errors)).effect.interval(0.95)
        covered += low <= 0.02 <= high
    assert 0.93 <= covered / 600 <= 0.98
