from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import check_resampling, percentile_interval, scan_weights, two_sided_p


def test_each_replicate_draws_as_many_scans_as_there_are():
    weights = scan_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == 1
    assert len(np.unique(weights, axis=0)) > 40


def test_a_seed_gives_its_scans():
    assert (scan_weights(7, 5, seed=3) == scan_weights(7, 5, seed=3)).all()
    assert (scan_weights(7, 5, seed=3) != scan_weights(7, 5, seed=4)).any()


def test_the_interval_is_the_central_share():
    replicates = np.stack([np.arange(101.0), np.full(101, np.nan)], axis=1)
    replicates[50, 1] = 4.0
    assert percentile_interval(replicates, 0.9) == pytest.approx(np.array([[5.0, 4.0], [95.0, 4.0]]))
    assert np.isnan(percentile_interval(np.full((3, 1), np.nan), 0.9)).all()


def test_p_of_ten_replicates():
    # One of nine at or below 0: 2 (1 + 1) / (1 + 9).
    assert two_sided_p(np.array([-1.0] + [1.0] * 8)) == pytest.approx(0.4)
    assert two_sided_p(np.array([1.0] + [-1.0] * 8)) == pytest.approx(0.4)
    assert two_sided_p(np.ones(9)) == pytest.approx(0.2)  # never 0
    assert two_sided_p(np.zeros(9)) == 1
    assert two_sided_p(np.array([np.nan] + [1.0] * 9)) == pytest.approx(0.2)
    assert np.isnan(two_sided_p(np.array([np.nan])))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((-1, 0, 0.9), "replicates is -1"),
        ((9, -1, 0.9), "seed is -1"),
        ((9, 0, 1.0), "confidence is 1"),
        ((9, 0, 95), "95"),
    ],
)
def test_settings_that_make_no_interval_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        check_resampling(*settings)
