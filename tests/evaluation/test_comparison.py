from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, compare, evaluate
from medpretrain3d.evaluation.center_distance import center
from medpretrain3d.evaluation.comparison import COMPARED, COMPARED_CENTERS
from medpretrain3d.evaluation.detection import MAP_KEY, froc_score_key

BOX = np.array([[0.0, 0, 0, 4, 4, 4]])
TARGETS = [TargetCase(str(scan), BOX, np.array([0])) for scan in range(12)]


def found(hits):
    """One detection per scan, on the object or beside it, all of different scores."""
    return [
        PredictedCase(str(scan), BOX if hit else BOX + 50, np.array([0.9 - scan / 20]), np.array([0]))
        for scan, hit in enumerate(hits)
    ]


def test_nothing_differs_from_itself():
    result = compare(found([1, 0] * 6), found([1, 0] * 6), TARGETS, ["a"], num_bootstrap=50)
    assert set(result["differences"]) == set(COMPARED)
    for row in result["differences"].values():
        assert row["difference"] == 0
        assert row["interval"] == [0, 0]
        assert row["p_value"] == row["p_corrected"] == 1


@pytest.mark.parametrize("hit", [0, 1])
def test_of_two_at_a_limit_no_difference_is_not_known(hit):
    result = compare(found([hit] * 12), found([hit] * 12), TARGETS, ["a"], num_bootstrap=50)
    for row in result["differences"].values():
        assert (row["a"], row["b"], row["difference"], row["p_value"]) == (hit, hit, 0, 1)
        assert np.isnan(row["interval"]).all()
    assert f"no interval of {', '.join(COMPARED)}: both at the limit of the metric" in result["notes"][0]


def test_all_against_none_differs_by_1_without_any_scan():
    result = compare(found([0] * 12), found([1] * 12), TARGETS, ["a"], num_bootstrap=99)
    for row in result["differences"].values():
        assert (row["a"], row["b"], row["difference"]) == pytest.approx((0, 1, 1))
        assert row["interval"] == pytest.approx([1, 1])
        assert row["p_value"] == pytest.approx(2 / 2**12)  # exact
        assert row["p_corrected"] == pytest.approx(7 * 2 / 2**12)


def test_swapping_the_two_turns_the_sign():
    a, b = found([1, 1, 0, 0, 1, 0] * 2), found([1, 1, 1, 0, 1, 1] * 2)
    there = compare(a, b, TARGETS, ["a"], num_bootstrap=200)["differences"][MAP_KEY]
    back = compare(b, a, TARGETS, ["a"], num_bootstrap=200)["differences"][MAP_KEY]
    assert there["difference"] > 0
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["interval"] == pytest.approx([-back["interval"][1], -back["interval"][0]])
    assert there["p_value"] == back["p_value"]
    assert there["interval"][0] < there["difference"] < there["interval"][1]


def test_the_two_sides_are_those_of_evaluate():
    a, b = found([1, 0, 1, 1, 0, 1] * 2), found([0, 0, 1, 1, 1, 1] * 2)
    result = compare(a, b, TARGETS, ["a"], num_bootstrap=5)["differences"]
    for key in (MAP_KEY, froc_score_key(0.1)):
        assert result[key]["a"] == evaluate(a, TARGETS, ["a"], num_bootstrap=0)[key]
        assert result[key]["b"] == evaluate(b, TARGETS, ["a"], num_bootstrap=0)[key]


def test_a_comparison_needs_replicates():
    with pytest.raises(UserError, match="at least 1"):
        compare(found([1] * 12), found([1] * 12), TARGETS, ["a"], num_bootstrap=0)


def test_few_scans_have_an_exact_p_and_no_interval():
    wanted, a, b = TARGETS[:8], found([0] * 8), found([1] * 8)
    result = compare(a, b, wanted, ["a"])
    row = result["differences"][MAP_KEY]
    assert np.isnan(row["interval"]).all()
    assert row["p_value"] == 2 / 2**8
    assert "says nothing about the method" in result["notes"][-1]


def test_the_seed_draws_the_sign_flips_and_nothing_else():
    targets = [TargetCase(str(scan), BOX, np.array([0])) for scan in range(16)]
    a, b = found([1, 0, 0, 1] * 4), found([1, 1, 0, 1, 0, 1, 1, 1] * 2)
    rows = [compare(a, b, targets, ["a"], 99, seed=seed)["differences"][MAP_KEY] for seed in (0, 0, 1)]
    assert rows[0] == rows[1]
    assert rows[0]["interval"] == rows[2]["interval"]
    assert rows[0]["p_value"] != rows[2]["p_value"]


POINTS = [TargetCase(str(scan), np.full((1, 6), 2.0), np.array([0])) for scan in range(12)]


def near(hits, distance_mm=4.0):
    """One box of 2 mm per scan, its center so far from the point, or 50 mm away."""
    boxes = [np.array([[1.0, 1, 1, 3, 3, 3]]) + (distance_mm if hit else 50) * np.array([0, 0, 1] * 2) for hit in hits]
    return [PredictedCase(str(n), box, np.array([0.9 - n / 20]), np.array([0])) for n, box in enumerate(boxes)]


def test_points_are_compared_by_the_distance_of_centers_as_evaluate_scores_them():
    a, b = near([1, 0, 1, 1, 0, 1] * 2), near([1, 1, 1, 1, 0, 1] * 2)
    result = compare(a, b, POINTS, ["a"], num_bootstrap=5)
    assert (result["protocol"], result["criterion"]) == ("centre", "radius")
    assert set(result["differences"]) == set(COMPARED_CENTERS) == {"AP", "FROC_score"}
    for key, row in result["differences"].items():
        assert (row["a"], row["b"]) == tuple(center(one, POINTS, ["a"])[key] for one in (a, b))
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
    assert result["differences"]["FROC_score"]["difference"] > 0
    assert "protocol" not in compare(found([1] * 12), found([1] * 12), TARGETS, ["a"], num_bootstrap=5)


def test_by_distance_all_against_none_differs_by_1_at_the_distance_asked_for():
    for criterion, nothing, difference in ((5.0, 0, 1), (3.0, 0, 0), (5.0, 1, 0)):
        a, b = near([nothing] * 12), near([1] * 12)
        for row in compare(a, b, POINTS, ["a"], 99, criterion=criterion)["differences"].values():
            assert row["difference"] == pytest.approx(difference)
            assert row["interval"] == pytest.approx([1, 1] if difference else [np.nan, np.nan], nan_ok=True)
            assert row["p_value"] == pytest.approx(2 / 2**12 if difference else 1)  # exact


def test_boxes_are_compared_by_distance_where_asked_and_points_never_by_overlap():
    a, b = found([0] * 12), found([1] * 12)
    assert compare(a, b, TARGETS, ["a"], 5, protocol="centre")["differences"]["AP"]["difference"] == pytest.approx(1)
    with pytest.raises(UserError, match="score by distance"):
        compare(near([1] * 12), near([1] * 12), POINTS, ["a"], 5, protocol="detection")
