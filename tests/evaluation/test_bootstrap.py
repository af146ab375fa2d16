from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling, check_resampling, scan_weights
from medpretrain3d.evaluation.patients import Patients


def test_each_replicate_draws_as_many_scans_as_there_are():
    weights = scan_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean() == 1
    assert len(np.unique(weights, axis=0)) > 40


def test_a_seed_gives_its_scans():
    assert (scan_weights(7, 5, seed=3) == scan_weights(7, 5, seed=3)).all()
    assert (scan_weights(7, 5, seed=3) != scan_weights(7, 5, seed=4)).any()


def mean_of(values):
    return lambda weights: {"share": weights @ values / weights.sum(axis=1), "rate": 9 * (weights @ values)}


def both(num_behind):
    return {"share": num_behind, "rate": num_behind}


def test_intervals_come_with_every_number_and_are_none_below_ten_scans():
    values, intervals = Resampling().estimate(
        mean_of(np.linspace(0, 1, 12)), Patients.one_each(12), both(12), rates=("rate",)
    )
    assert values["share"] == pytest.approx(0.5)
    assert 0 < intervals["share"][0] < 0.5 < intervals["share"][1] < 1
    assert intervals["rate"][1] > 54  # a rate has no upper limit
    few = Resampling().estimate(mean_of(np.linspace(0, 1, 9)), Patients.one_each(9), both(9))[1]
    assert np.isnan(few["share"]).all()
    assert Resampling(0).estimate(mean_of(np.linspace(0, 1, 12)), Patients.one_each(12), both(12))[1] == {}


def test_what_rests_on_few_of_many_scans_has_no_interval():
    metrics = mean_of(np.linspace(0, 1, 30))
    intervals = Resampling().estimate(metrics, Patients.one_each(30), {"rate": 3, "share": 30})[1]
    assert np.isnan(intervals["rate"]).all()
    assert not np.isnan(intervals["share"]).any()


def test_each_point_of_a_curve_rests_on_scans_of_its_own():
    def metrics(weights):
        return {"curve": np.repeat(weights @ np.linspace(0, 1, 30)[:, None] / weights.sum(axis=1)[:, None], 2, axis=1)}

    curve = Resampling().estimate(metrics, Patients.one_each(30), {"curve": np.array([9, 10])})[1]["curve"]
    assert np.isnan(curve[0]).all()
    assert not np.isnan(curve[1]).any()


def test_a_metric_of_which_nobody_says_what_it_rests_on_has_no_place():
    with pytest.raises(KeyError, match="share"):
        Resampling().estimate(mean_of(np.linspace(0, 1, 30)), Patients.one_each(30), {"rate": 30})


def test_what_does_not_exist_without_one_of_the_scans_has_no_interval():
    def metrics(weights):
        return {"curve": np.stack([np.where(weights[:, 0] > 0, 0.5, np.nan), np.full(len(weights), 0.25)], axis=1)}

    curve = Resampling().estimate(metrics, Patients.one_each(20), {"curve": 20})[1]["curve"]
    assert np.isnan(curve[0]).all()
    assert not np.isnan(curve[1]).any()


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
