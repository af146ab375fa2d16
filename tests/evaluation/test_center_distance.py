from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.center_distance import center, closeness

ONCE = Resampling(num_bootstrap=0)
OBJECT = np.array([[0.0, 0, 0, 4, 4, 10]])  # centre (2, 2, 5), longest edge 10


def at(*centers):
    return np.array([[*(np.array(one) - 1), *(np.array(one) + 1)] for one in centers], dtype=float)


@pytest.mark.parametrize(
    ("criterion", "inside", "outside"),
    [("radius", (2, 6.9, 5), (2, 7, 5)), ("box", (3.9, 3.9, 9.9), (2, 4, 5)), (3.0, (2, 2, 7.9), (2, 2, 8))],
)
def test_a_hit_is_strictly_inside(criterion, inside, outside):
    close = closeness(criterion)(at(inside, outside, (2, 2, 5)), OBJECT)[:, 0]
    assert close[0] > 0
    assert close[1] == pytest.approx(0, abs=1e-12)
    assert close[1] <= 0
    assert close[2] == 1


def test_an_object_without_extent_is_hit_by_a_distance_only():
    point = np.array([[2.0, 2, 5, 2, 2, 5]])
    assert closeness("radius")(at((2, 2, 5)), point)[0, 0] == -np.inf
    assert closeness("box")(at((2, 2, 5)), point)[0, 0] == -np.inf
    assert closeness(1.0)(at((2, 2, 5)), point)[0, 0] == 1


@pytest.mark.parametrize("criterion", ["diameter", 0.0, -1.0, float("nan")])
def test_other_criteria_are_refused(criterion):
    with pytest.raises(UserError, match="must be 'radius', 'box' or a distance"):
        closeness(criterion)


def test_scores_by_hand():
    targets = [TargetCase("s", np.concatenate([OBJECT, OBJECT + 40]), np.array([0, 0]))]
    found = [PredictedCase("s", at((2, 2, 5), (2, 3, 5), (30, 0, 0)), np.array([0.7, 0.9, 0.8]), np.zeros(3, int))]
    result = center(found, targets, ["a"], "radius", ONCE)
    # The better of the two candidates hits, the other and the far one are wrong: precision 1 up to recall 1/2.
    assert result["AP"] == result["a_AP"] == pytest.approx(51 / 101)
    assert result["FROC_curve"] == [0.5] * 7
    assert result["operating_points"][7]["precision"] == pytest.approx(1 / 2)  # at a score of 0.8
    assert result["per_case"][0]["num_hits"] == 1
