"""Cubes of edge 10: shifted by s along one axis they overlap by IoU (10 - s) / (10 + s)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.error_analysis import ERRORS, error_analysis

Found = tuple[float, float, int]
"""Place along the first axis, score, class."""


def analysed(
    found: Sequence[Sequence[Found]],
    wanted: Sequence[Sequence[tuple[float, int]]],
    classes: Sequence[str] = ("a", "b"),
    ignore: Sequence[float] = (),
) -> dict:
    predictions = [
        PredictedCase(str(scan), cubes([at for at, _, _ in one]), np.array([s for _, s, _ in one]), labels(one))
        for scan, one in enumerate(found)
    ]
    targets = [
        TargetCase(str(scan), cubes([at for at, _ in one]), labels(one), cubes(ignore) if ignore else None)
        for scan, one in enumerate(wanted)
    ]
    return error_analysis(match_data_set(predictions, targets, classes, (0.1, 0.5)), row=1)


def cubes(places: Sequence[float]) -> np.ndarray:
    return np.array([[at, 0, 0, at + 10, 10, 10] for at in places], float).reshape(-1, 6)


def labels(rows: Sequence[tuple]) -> np.ndarray:
    return np.array([row[-1] for row in rows], int)


def counts(result: dict) -> dict[str, int]:
    return {kind: result[kind]["num"] for kind in ERRORS if result[kind]["num"]}


def test_each_kind_of_error_by_hand():
    """Objects of class a at 0, 100 and 200. IoU of shifts: 0 1, 2 2/3, 5 1/3, 9 1/19."""
    objects = [[(0, 0), (100, 0), (200, 0)]]
    assert counts(analysed([[(0, 0.9, 0), (100, 0.9, 0), (200, 0.9, 0)]], objects)) == {}
    assert counts(analysed([[(0, 0.9, 0), (2, 0.8, 0)]], objects)) == {"duplicate": 1, "missed": 2}
    assert counts(analysed([[(0, 0.9, 0), (105, 0.8, 0)]], objects)) == {"localization": 1, "missed": 1}
    assert counts(analysed([[(0, 0.9, 0), (102, 0.8, 1)]], objects)) == {"classification": 1, "missed": 1}
    assert counts(analysed([[(0, 0.9, 0), (105, 0.8, 1)]], objects)) == {"both": 1, "missed": 2}
    assert counts(analysed([[(0, 0.9, 0), (109, 0.8, 0)]], objects)) == {"background": 1, "missed": 2}
    assert counts(analysed([[(0, 0.9, 0), (109, 0.8, 1)]], objects)) == {"background": 1, "missed": 2}


def test_of_several_kinds_the_first_counts():
    """Class a at 0 and class b at 7: a detection at 5 has IoU 1/3 with a and 2/3 with b."""
    objects = [[(0, 0), (7, 1)]]
    assert counts(analysed([[(5, 0.9, 0)]], objects)) == {"localization": 1, "missed": 1}
    # Held by a better one, and meeting class b as well: of the wrong class before a duplicate, as in TIDE's code.
    assert counts(analysed([[(0, 0.9, 0), (1, 0.8, 0)]], [[(0, 0), (2, 1)]])) == {"classification": 1}


def test_gain_of_what_goes_is_the_ap_without_it():
    """One object, a better detection elsewhere: precision 1/2 at every recall, 1 without it."""
    result = analysed([[(50, 0.9, 0), (0, 0.8, 0)]], [[(0, 0)]])
    assert result["AP"] == pytest.approx(0.5)
    assert result["background"] == {"num": 1, "gain": pytest.approx(0.5)}
    assert result["false_positives"] == {"num": 1, "gain": pytest.approx(0.5)}
    assert result["false_negatives"] == {"num": 0, "gain": 0.0}
    assert all(result[kind]["gain"] == 0 for kind in ERRORS if kind != "background")


def test_gain_of_missed_objects_is_the_ap_without_them():
    """One of two objects found: 51 of 101 recall levels."""
    result = analysed([[(0, 0.9, 0)], []], [[(0, 0)], [(0, 0)]])
    assert result["AP"] == pytest.approx(51 / 101)
    assert result["missed"] == {"num": 1, "gain": pytest.approx(50 / 101)}
    assert result["false_negatives"] == result["missed"]


def test_the_best_of_several_badly_placed_detections_becomes_the_hit_and_the_others_go():
    result = analysed([[(4, 0.9, 0), (5, 0.8, 0), (6, 0.7, 0)]], [[(0, 0)]])  # IoU 3/7, 1/3, 1/4
    assert result["AP"] == 0
    assert result["localization"] == {"num": 3, "gain": pytest.approx(1.0)}
    assert result["missed"] == {"num": 0, "gain": 0.0}  # badly placed detections are about it
    assert result["false_negatives"]["num"] == 1


def test_badly_placed_beside_a_hit_goes_and_is_no_second_hit():
    result = analysed([[(5, 0.9, 0), (0, 0.8, 0)]], [[(0, 0)]])
    assert result["AP"] == pytest.approx(0.5)
    assert result["localization"] == {"num": 1, "gain": pytest.approx(0.5)}


def test_a_mended_class_moves_the_detection_to_the_class_of_its_object():
    """Class a: object missed for being called b; class b: its own object found after the wrong detection, AP 1/2."""
    result = analysed([[(0, 0.9, 1), (100, 0.8, 1)]], [[(0, 0), (100, 1)]])
    assert result["AP"] == pytest.approx((0 + 0.5) / 2)
    assert result["classification"] == {"num": 1, "gain": pytest.approx(1 - 0.25)}
    assert result["missed"]["num"] == 0


def test_a_class_whose_objects_are_all_missed_stays_in_the_mean():
    result = analysed([[(0, 0.9, 0)]], [[(0, 0), (100, 1)]])
    assert result["AP"] == pytest.approx(0.5)
    assert result["missed"] == {"num": 1, "gain": 0.0}  # nothing of class b is left to find, as in TIDE's code


def test_detections_in_ignore_regions_are_no_errors():
    assert counts(analysed([[(0, 0.9, 0), (50, 0.8, 0)]], [[(0, 0)]], ignore=[50])) == {}


def test_without_objects_or_detections():
    result = analysed([[(0, 0.9, 0)]], [[]])
    assert counts(result) == {"background": 1}
    assert np.isnan(result["AP"])
    assert np.isnan(result["background"]["gain"])
    assert counts(analysed([[]], [[(0, 0)]])) == {"missed": 1}


def test_errors_and_hits_are_all_detections_and_all_objects():
    random = np.random.default_rng(0)
    found = [[(float(at), float(s), int(c)) for at, s, c in zip(random.uniform(0, 60, 20), random.random(20),
             random.integers(0, 2, 20), strict=True)] for _ in range(5)]  # fmt: skip
    wanted = [[(float(at), int(c)) for at, c in zip(random.uniform(0, 60, 4), (0, 0, 1, 1), strict=True)]] * 5
    result = analysed(found, wanted)
    num_hits = 5 * 4 - result["false_negatives"]["num"]
    assert sum(result[kind]["num"] for kind in ERRORS[:-1]) == result["false_positives"]["num"] == 100 - num_hits
    assert result["missed"]["num"] <= result["false_negatives"]["num"]
    assert all(result[kind]["gain"] >= -1e-12 for kind in ERRORS)


def test_evaluate_has_them_at_the_ap_that_it_reports():
    found = [PredictedCase("s", cubes([50, 0]), np.array([0.9, 0.8]), np.array([0, 0]))]
    wanted = [TargetCase("s", cubes([0]), np.array([0]))]
    result = evaluate(found, wanted, ["a"], num_bootstrap=0)
    assert result["error_analysis"]["AP"] == result["AP_IoU_0.50_MaxDet_100"] == pytest.approx(0.5)
    assert result["error_analysis"]["background"] == {"num": 1, "gain": pytest.approx(0.5)}
