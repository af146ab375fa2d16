from __future__ import annotations

import math

import numpy as np
import pytest

from medpretrain3d.statistics import sign_flip_p


def test_few_scans_are_counted_exactly():
    assert sign_flip_p(np.array([1.0, 2, 3, 4])) == 2 / 16
    # |sum| >= 4 of {3, 2, 1} with signs: +++ and ++- and their opposites.
    assert sign_flip_p(np.array([3.0, 2.0, -1.0])) == 4 / 8
    assert sign_flip_p(np.ones(8)) == 2 / 256
    assert sign_flip_p(np.zeros(8)) == 1


def test_many_scans_agree_with_the_exact_count():
    values = np.random.default_rng(0).normal(0.5, 1, 13)
    signs = 2.0 * ((np.arange(2**13)[:, None] >> np.arange(13)) & 1) - 1
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-9).mean()
    assert sign_flip_p(values, 20_000) == pytest.approx(exact, abs=0.01)


def test_the_side_does_not_matter_and_the_seed_gives_its_p():
    values = np.random.default_rng(1).normal(0.2, 1, 30)
    assert sign_flip_p(values, 999) == sign_flip_p(-values, 999) == sign_flip_p(values, 999)
    assert sign_flip_p(values, 999, seed=1) != sign_flip_p(values, 999)


def test_p_is_never_0_and_unknown_without_numbers():
    assert sign_flip_p(np.ones(50), 99) == 1 / 100
    assert math.isnan(sign_flip_p(np.array([1.0, math.nan])))
    assert math.isnan(sign_flip_p(np.zeros(0)))
