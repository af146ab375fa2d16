from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, compare, evaluate
from medpretrain3d.evaluation.comparison import COMPARED
from medpretrain3d.evaluation.detection import MAP_KEY, froc_score_key

BOX = np.array([[0.0, 0, 0, 4, 4, 4]])
TARGETS = [TargetCase(str(scan), BOX, np.array([0])) for scan in range(8)]


def found(hits):
    """One detection per scan, on the object or beside it, all of different scores."""
    return [
        PredictedCase(str(scan), BOX if hit else BOX + 50, np.array([0.9 - scan / 20]), np.array([0]))
        for scan, hit in enumerate(hits)
    ]


def test_nothing_differs_from_itself():
    result = compare(found([1, 0] * 4), found([1, 0] * 4), TARGETS, ["a"], num_bootstrap=50)
    assert set(result["differences"]) == set(COMPARED)
    for row in result["differences"].values():
        assert row["difference"] == 0
        assert row["interval"] == [0, 0]
        assert row["p_value"] == 1


def test_all_against_none_differs_by_1_in_every_replicate():
    result = compare(found([0] * 8), found([1] * 8), TARGETS, ["a"], num_bootstrap=99)
    for row in result["differences"].values():
        assert (row["a"], row["b"], row["difference"]) == pytest.approx((0, 1, 1))
        assert row["interval"] == pytest.approx([1, 1])
        assert row["p_value"] == pytest.approx(2 / 100)


def test_swapping_the_two_turns_the_sign():
    a, b = found([1, 1, 0, 0, 1, 0, 1, 0]), found([1, 1, 1, 0, 1, 0, 1, 1])
    there = compare(a, b, TARGETS, ["a"], num_bootstrap=200)["differences"][MAP_KEY]
    back = compare(b, a, TARGETS, ["a"], num_bootstrap=200)["differences"][MAP_KEY]
    assert there["difference"] > 0
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["interval"] == pytest.approx([-back["interval"][1], -back["interval"][0]])
    assert there["p_value"] == back["p_value"]
    assert there["interval"][0] >= 0  # b finds what a finds, in every replicate


def test_the_two_sides_are_those_of_evaluate():
    a, b = found([1, 0, 1, 1, 0, 1, 0, 1]), found([0, 0, 1, 1, 1, 1, 0, 1])
    result = compare(a, b, TARGETS, ["a"], num_bootstrap=5)["differences"]
    for key in (MAP_KEY, froc_score_key(0.1)):
        assert result[key]["a"] == evaluate(a, TARGETS, ["a"], num_bootstrap=0)[key]
        assert result[key]["b"] == evaluate(b, TARGETS, ["a"], num_bootstrap=0)[key]


def test_a_comparison_needs_replicates():
    with pytest.raises(UserError, match="at least 1"):
        compare(found([1] * 8), found([1] * 8), TARGETS, ["a"], num_bootstrap=0)
