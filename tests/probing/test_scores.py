from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from medpretrain3d.probing import auc_of, difference_of, rank_auc
from medpretrain3d.probing.scores import _jackknife


def drawn(num_scans: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scan = np.repeat(np.arange(num_scans), 40)
    is_object = np.tile(np.arange(40) < 20, num_scans)
    return random.normal(size=scan.size) + shift * is_object + random.normal(size=num_scans)[scan], is_object, scan


def test_area_is_the_share_of_pairs_in_order_and_ties_are_halves():
    random = np.random.default_rng(0)
    scores, is_object = random.integers(0, 6, 60).astype(float), random.random(60) < 0.4
    pairs = [np.sign(a - b) / 2 + 0.5 for a in scores[is_object] for b in scores[~is_object]]
    assert rank_auc(scores, is_object) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(rank_auc(scores, np.ones(60, bool)))


@pytest.mark.parametrize("num_values", [4, 10_000])
def test_areas_without_each_scan_are_those_of_the_points_that_are_left(num_values):
    random = np.random.default_rng(1)
    scan = random.permutation(np.repeat(np.arange(30) * 7, random.integers(1, 40, 30)))
    is_object = (random.random(scan.size) < 0.3) & (scan < 150)
    scores = random.integers(0, num_values, scan.size) / 3 + is_object
    value, without = _jackknife(scores, is_object, scan)
    assert value == rank_auc(scores, is_object)
    wanted = [rank_auc(scores[scan != one], is_object[scan != one]) for one in np.unique(scan)]
    np.testing.assert_allclose(without, wanted, rtol=0, atol=1e-12)


def test_an_area_without_the_one_scan_that_holds_objects_is_not_known():
    scores, is_object, scan = drawn(3, 1.0)
    without = _jackknife(scores, is_object & (scan == 1), scan)[1]
    assert np.isnan(without).tolist() == [False, True, False]


def test_intervals_of_many_scans_take_memory_by_their_points():
    num_scans, num_points = 1000, 20
    scan = np.repeat(np.arange(num_scans), num_points)
    is_object = np.tile(np.arange(num_points) < 10, num_scans)
    scores = np.random.default_rng(0).normal(size=scan.size) + is_object
    tracemalloc.start()
    auc_of(scores, is_object, scan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # a byte for each point and scan are 20 MB


def test_no_interval_below_ten_scans():
    assert auc_of(*drawn(9, 1.0)).interval is None
    assert auc_of(*drawn(10, 1.0)).interval is not None


@pytest.mark.parametrize(("num_with_objects", "there"), [(3, False), (10, True)])
def test_an_area_rests_on_the_scans_with_objects(num_with_objects, there):
    scores, is_object, scan = drawn(40, 1.0)
    is_object &= scan < num_with_objects
    area = auc_of(scores, is_object, scan)
    assert area.num_patients == num_with_objects
    assert (area.interval is not None) is there
    assert (difference_of(scores + is_object, scores, is_object, scan).interval is not None) is there


def test_an_interval_stays_where_an_area_can_be():
    scores, is_object, scan = drawn(10, 3.0)
    area = auc_of(scores, is_object, scan)
    assert area.interval is not None
    assert 0 <= area.interval[0] < area.value < area.interval[1] <= 1


def test_intervals_over_scans_cover_as_often_as_they_say():
    """Scores move together within a scan: an interval over points would cover far less."""
    areas = [auc_of(*drawn(20, 1.0, seed)) for seed in range(200)]
    truth = rank_auc(*drawn(4000, 1.0, 1000)[:2])
    covered = [one.interval[0] <= truth <= one.interval[1] for one in areas if one.interval]
    assert len(covered) == 200
    assert 0.91 <= np.mean(covered) <= 0.99


def test_scans_of_a_patient_that_agree_say_no_more_than_one_of_them():
    """Ten patients: four scans of each alike had the interval of 40, half as wide."""
    scores, is_object, patient = drawn(10, 1.0)
    once = auc_of(scores, is_object, patient)
    often = auc_of(np.tile(scores, 4), np.tile(is_object, 4), np.tile(patient, 4))
    assert often.num_patients == once.num_patients == 10
    assert often.value == pytest.approx(once.value)
    assert often.interval == pytest.approx(once.interval)


def test_equal_scores_do_not_differ_and_better_ones_do():
    scores, is_object, scan = drawn(12, 1.0)
    same = difference_of(scores, 2 * scores + 1, is_object, scan)
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))
    better = difference_of(scores + is_object, scores, is_object, scan)
    assert better.interval is not None
    assert 0 < better.interval[0] < better.value
