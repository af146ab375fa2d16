from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.probing import auc_of, difference_of, rank_auc


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


def test_no_interval_below_ten_scans():
    assert auc_of(*drawn(9, 1.0)).interval is None
    assert auc_of(*drawn(10, 1.0)).interval is not None


@pytest.mark.parametrize(("num_with_objects", "there"), [(3, False), (10, True)])
def test_an_area_rests_on_the_scans_with_objects(num_with_objects, there):
    scores, is_object, scan = drawn(40, 1.0)
    is_object &= scan < num_with_objects
    area = auc_of(scores, is_object, scan)
    assert area.num_scans == num_with_objects
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


def test_equal_scores_do_not_differ_and_better_ones_do():
    scores, is_object, scan = drawn(12, 1.0)
    same = difference_of(scores, 2 * scores + 1, is_object, scan)
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))
    better = difference_of(scores + is_object, scores, is_object, scan)
    assert better.interval is not None
    assert 0 < better.interval[0] < better.value
