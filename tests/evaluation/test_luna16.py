from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.candidates import Points, read_candidates, read_nodules, read_series
from medpretrain3d.evaluation.luna16 import luna16, match_candidates
from medpretrain3d.evaluation.tables import luna16_table
from tests.oracles import FIXTURES

ONCE = Resampling(num_bootstrap=0)


def points(*rows):
    """Rows of (series, x, y, z, value)."""
    return Points(
        np.array([row[0] for row in rows], dtype=np.str_),
        np.array([row[1:4] for row in rows], dtype=float).reshape(-1, 3),
        np.array([row[4] for row in rows], dtype=float),
    )


@pytest.mark.parametrize("name", ["set000", "set001", "set002"])
def test_the_numbers_of_the_public_script(name):
    folder = FIXTURES / "luna16"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))[name]
    scans = match_candidates(
        read_series(folder / name / "seriesuids.csv"),
        read_nodules(folder / name / "annotations.csv"),
        read_candidates(folder / name / "predictions.csv"),
        read_nodules(folder / name / "annotations_excluded.csv"),
    )
    result = luna16(scans, Resampling(num_bootstrap=50))
    assert result["fp_per_scan"] == expected["fp_per_scan"]
    assert result["sensitivity"] == pytest.approx(expected["sensitivity"], abs=1e-6)
    assert result["cpm"] == pytest.approx(expected["cpm"], abs=1e-6)
    readouts = {name: np.array(one["sensitivity"]) for name, one in result["readouts"].items()}
    assert set(readouts) == {"linear", "bootstrap_mean", "nearest", "last_below", "first_above"}
    assert np.all(readouts["last_below"] <= readouts["linear"] + 1e-12)
    low, high = result["intervals"]["cpm"]
    assert low <= result["readouts"]["bootstrap_mean"]["cpm"] <= high


def test_points_by_scan():
    found = points(("b", 1, 0, 0, 0.1), ("a", 2, 0, 0, 0.2), ("b", 3, 0, 0, 0.3)).by_series()
    assert {name: one.value.tolist() for name, one in found.items()} == {"a": [0.2], "b": [0.1, 0.3]}
    assert found["b"].center_lps_mm[:, 0].tolist() == [1, 3]
    assert points().by_series() == {}


def test_what_a_mark_is():
    nodules = points(("a", 0, 0, 0, 6), ("a", 50, 0, 0, -1), ("b", 0, 0, 0, 8))
    excluded = points(("a", 100, 0, 0, -1), ("a", 2, 0, 0, 10), ("c", 0, 0, 0, 4))
    candidates = points(
        ("a", 1, 0, 0, 0.6),  # on the first nodule, and on an excluded finding
        ("a", 0, 1, 0, 0.8),  # on it again: the better one counts
        ("a", 3, 0, 0, 0.9),  # at its radius: not inside; but in the excluded finding around it
        ("a", 50, 4.9, 0, 0.5),  # diameter unknown: 10 mm
        ("a", 50, 5, 0, 0.7),  # at the radius: a false positive
        ("a", 104, 0, 0, 0.95),  # on an excluded finding
        ("b", 0, 0, 3.9, 0.3),
        ("x", 0, 0, 0, 1.0),  # a scan that is not in the list
    )
    scans = match_candidates(["a", "b", "c"], nodules, candidates, excluded)
    assert scans.matches.scores.tolist() == [0.8, 0.7, 0.5, 0.3]
    assert scans.matches.is_hit[0].tolist() == [True, False, True, True]
    assert scans.matches.num_targets.tolist() == [2, 1, 0]
    assert (scans.num_on_excluded, scans.num_double, scans.num_marks_elsewhere, scans.num_marks) == (2, 1, 1, 7)
    result = luna16(scans, ONCE)
    # 1/3 before the false positive, which is 1/3 per scan.
    assert result["sensitivity"] == pytest.approx([1 / 3, 1 / 3, 1, 1, 1, 1, 1])
    assert [row["num_hits"] for row in result["per_case"]] == [2, 1, 0]


def test_marks_of_other_scans_alone_are_refused():
    nodules, candidates = points(("a", 0, 0, 0, 6)), points(("A.nii", 0, 0, 0, 0.9), ("B.nii", 0, 0, 0, 0.8))
    with pytest.raises(UserError, match=r"all 2 marks are of scans that are not in the list, the first of 'A\.nii'"):
        match_candidates(["a", "b"], nodules, candidates)
    assert luna16(match_candidates(["a", "b"], nodules, points()), ONCE)["cpm"] == 0  # nothing was found


def test_the_names_of_read_outs_stand_apart_and_lines_fit_a_terminal():
    series = [f"{i:02}" for i in range(20)]
    nodules = points(*((name, 0, 0, 0, 6) for name in series))
    candidates = points(*((name, 0, 0, 0, 0.5) for name in series))
    table = luna16_table(luna16(match_candidates(series, nodules, candidates), Resampling(num_bootstrap=20)))
    assert "bootstrap_mean 1.000 1.000" in "\n".join(table)
    assert max(map(len, table)) <= 80


def test_a_mark_on_two_nodules_finds_both():
    scans = match_candidates(["a"], points(("a", 0, 0, 0, 10), ("a", 2, 0, 0, 10)), points(("a", 1, 0, 0, 0.5)))
    assert scans.matches.is_hit[0].tolist() == [True, True]


def test_without_the_excluded_findings_their_marks_are_false():
    nodules, candidates = points(("a", 0, 0, 0, 6)), points(("a", 50, 0, 0, 0.9), ("a", 0, 0, 0, 0.8))
    assert luna16(match_candidates(["a"], nodules, candidates), ONCE)["sensitivity"][:3] == [0, 0, 0]
    excluded = points(("a", 50, 0, 0, 5))
    assert luna16(match_candidates(["a"], nodules, candidates, excluded), ONCE)["sensitivity"] == [1] * 7


def test_of_more_than_100_marks_those_above_the_101st_count():
    nodule = points(("a", 0, 0, 0, 6))
    far = [("a", 100.0 + i, 0, 0, 0.9) for i in range(60)]
    ties = [("a", 300.0 + i, 0, 0, 0.5) for i in range(41)]
    # The 101st score is 0.5, so all candidates of 0.5 go, and the hit with them.
    scans = match_candidates(["a"], nodule, points(*far, *ties, ("a", 0, 0, 0, 0.5)))
    assert (len(scans.matches.scores), scans.num_over_limit) == (60, 42)
    assert not scans.matches.is_hit.any()
    assert match_candidates(["a"], nodule, points(*far, *ties[:39], ("a", 0, 0, 0, 0.5))).matches.is_hit.sum() == 1


def test_the_five_read_outs_between_two_points():
    # Two scans, two nodules: points (0, 1/2) and, with one score, (3/2, 1): half way at a rate of 3/4.
    nodules = points(("a", 0, 0, 0, 6), ("b", 0, 0, 0, 6))
    false = [("a", 50.0 + 20 * i, 0, 0, 0.5) for i in range(3)]
    scans = match_candidates(["a", "b"], nodules, points(("a", 0, 0, 0, 0.9), ("b", 0, 0, 0, 0.5), *false))
    readouts = luna16(scans, ONCE)["readouts"]
    assert set(readouts) == {"linear", "nearest", "last_below", "first_above"}  # no replicates, no mean of them
    at_1 = {name: one["sensitivity"][3] for name, one in readouts.items()}
    assert at_1 == pytest.approx({"linear": 1 / 2 + 1 / 3, "nearest": 1, "last_below": 1 / 2, "first_above": 1})
    at_half = {name: one["sensitivity"][2] for name, one in readouts.items()}
    assert at_half == pytest.approx({"linear": 1 / 2 + 1 / 6, "nearest": 0, "last_below": 1 / 2, "first_above": 1})


def test_boxes_of_a_predictions_file_are_marks_at_their_centres(tmp_path):
    entry = {"case": "1.3.6.1", "boxes": [[-4, 0, 2, 0, 4, 8]], "scores": [0.7], "labels": [0]}
    document = {"classes": ["nodule"], "frame": "lps_mm", "predictions": [entry]}
    (tmp_path / "p.json").write_text(json.dumps(document))
    candidates = read_candidates(tmp_path / "p.json")
    assert (candidates.series.tolist(), candidates.center_lps_mm.tolist(), candidates.value.tolist()) == (
        ["1.3.6.1"],
        [[-2, 2, 5]],
        [0.7],
    )
    for change, said in (({"frame": "voxels"}, "must be 'lps_mm'"), ({"classes": ["a", "b"]}, "2 classes")):
        (tmp_path / "bad.json").write_text(json.dumps(document | change))
        with pytest.raises(UserError, match=said):
            read_candidates(tmp_path / "bad.json")


def test_nothing_found_scores_0(tmp_path):
    (tmp_path / "p.csv").write_text("seriesuid,coordX,coordY,coordZ,probability\n")
    scans = match_candidates(["a"], points(("a", 0, 0, 0, 6)), read_candidates(tmp_path / "p.csv"))
    for one in luna16(scans, Resampling(num_bootstrap=5))["readouts"].values():
        assert one["sensitivity"] == [0] * 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column 'seriesuid'"),
        ("seriesuid,coordX,coordY,coordZ\na,1,2,3\n", "has no column 'probability'"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,x,0.5\n", "a row without four numbers"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,3\n", "a row without four numbers"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,nan,0.5\n", "row 1 holds .*finite"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,nan\n", "row 1 holds .*finite"),
        ("seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,1.5\n", "mark 1 is 1.5, must be in"),
    ],
)
def test_marks_that_make_no_sense_are_refused(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_candidates(tmp_path / "p.csv")


def test_lists_of_scans_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_series(tmp_path / "none.csv")
    for text, said in (("", "lists no scan"), ("a\nb\na\n", "'a' is listed twice")):
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(UserError, match=said):
            read_series(tmp_path / "s.csv")
    with pytest.raises(UserError, match="none of the 1 scans"):
        match_candidates(["a"], points(("b", 0, 0, 0, 6)), points())


def test_nodules_and_excluded_findings_of_scans_that_are_not_listed_are_counted_and_said():
    nodules = points(("a", 0, 0, 0, 10), ("b", 0, 0, 0, 10), ("c", 0, 0, 0, 10))
    result = luna16(match_candidates(["a"], nodules, points(("a", 0, 0, 0, 0.5)), points(("b", 9, 9, 9, 4))), ONCE)
    assert (result["num_targets"], result["num_nodules_of_unlisted_scans"]) == (1, 2)
    assert result["num_excluded_of_unlisted_scans"] == 1
    said = luna16_table(result)
    assert "nodules of scans that are not in the list, left out: 2" in said
    assert "excluded findings of scans that are not in the list, left out: 1" in said
    whole = luna16(match_candidates(["a", "b", "c"], nodules, nodules), ONCE)
    assert not any("left out" in line for line in luna16_table(whole))
