from __future__ import annotations

import json

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import pair, read_predictions, read_targets

BOX = [0.0, 0, 0, 2, 2, 2]


@pytest.fixture
def write(tmp_path):
    """Write a file of entries under `key` and return its path."""

    def to(name, key, entries, **header):
        path = tmp_path / name
        path.write_text(json.dumps({"classes": ["a", "b"], key: entries, **header}))
        return path

    return to


def found(case=None, **more):
    named = {} if case is None else {"case": case}
    return {**named, "boxes": [BOX], "scores": [0.5], "labels": [1], **more}


def wanted(case=None, **more):
    named = {} if case is None else {"case": case}
    return {**named, "boxes": [BOX], "labels": [1], **more}


def test_named_cases_are_paired_by_name(write):
    predictions = read_predictions(write("p.json", "predictions", [found("x", scores=[0.1]), found("y")]))
    targets = read_targets(write("t.json", "targets", [wanted("y"), wanted("x")]))
    assert [(one.case, one.scores[0]) for one in pair(predictions, targets)] == [("y", 0.5), ("x", 0.1)]


def test_unnamed_cases_are_paired_by_order(write):
    predictions = read_predictions(write("p.json", "predictions", [found(scores=[0.1]), found()]))
    targets = read_targets(write("t.json", "targets", [wanted("y"), wanted("x")]))
    assert [(one.case, one.scores[0]) for one in pair(predictions, targets)] == [("y", 0.1), ("x", 0.5)]


def test_what_a_file_states_beyond_the_need_is_read_or_ignored(write):
    entries = [found("x", boxes_vox=[[0, 0, 0, 1, 1, 1]])]
    file = read_predictions(write("p.json", "predictions", entries, frame="lps_mm", axes="x0,y0", version=1))
    assert (file.frame, file.axes, file.classes) == ("lps_mm", "x0,y0", ("a", "b"))
    assert file.cases[0].boxes.tolist() == [BOX]


@pytest.mark.parametrize(
    ("entries", "header", "said"),
    [
        ([{"boxes": [], "labels": []}], {}, "p.json: entry 0 of 'predictions' has no 'scores'"),
        ([found("x"), found("x")], {}, "case 'x' is listed twice"),
        ([found("x"), found()], {}, "1 of 2 entries have a 'case'"),
        ([found("x", boxes=[[2, 0, 0, 1, 2, 2]])], {}, "p.json: predictions of case 'x': box 0 .*min corner"),
        ([found("x", labels=[2])], {}, "label 0 is 2"),
        ([found("x", scores=[float("nan")])], {}, "score 0 is nan"),
        ([[1]], {}, "entry 0 of 'predictions' must be an object"),
        ([], {}, "'predictions' must be a list with at least one entry"),
        ([found()], {"classes": []}, "'classes' must be a list with at least one entry"),
        ([found()], {"classes": ["a", "a"]}, "name one class twice"),
    ],
)
def test_a_wrong_entry_is_named(write, entries, header, said):
    with pytest.raises(UserError, match=said):
        read_predictions(write("p.json", "predictions", entries, **header))


def test_a_file_that_is_not_there_not_json_or_of_the_other_kind(write, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        read_targets(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a list"):
        read_targets(tmp_path / "list.json")
    with pytest.raises(UserError, match="has no 'targets'"):
        read_targets(write("p.json", "predictions", [found()]))


@pytest.mark.parametrize(
    ("predictions", "targets", "said"),
    [
        (([found("x")], {"classes": ["a", "c"]}), ([wanted("x")], {}), r"unknown: \['c'\]"),
        (([found("x")], {"classes": ["b", "a"]}), ([wanted("x")], {}), "the same in one order"),
        (([found("x")], {"frame": "lps_mm"}), ([wanted("x")], {"frame": "voxels"}), "frame is 'lps_mm' but 'voxels'"),
        (([found("x")], {"axes": "x,y,z"}), ([wanted("x")], {"axes": "z,y,x"}), "axes is 'x,y,z'"),
        (([found("x")], {}), ([wanted("x"), wanted("y")], {}), "no entry for case 'y'.*empty boxes"),
        (([found("x"), found("y")], {}), ([wanted("x")], {}), "case 'y' not in .*t.json"),
        (([found(), found()], {}), ([wanted("x")], {}), "2 entries but 1"),
    ],
)
def test_two_files_that_do_not_fit_are_refused(write, predictions, targets, said):
    p = read_predictions(write("p.json", "predictions", predictions[0], **predictions[1]))
    t = read_targets(write("t.json", "targets", targets[0], **targets[1]))
    with pytest.raises(UserError, match=said):
        pair(p, t)


def test_a_frame_that_only_one_file_states_is_trusted(write):
    p = read_predictions(write("p.json", "predictions", [found("x")], frame="lps_mm"))
    t = read_targets(write("t.json", "targets", [wanted("x")]))
    assert len(pair(p, t)) == 1


def test_ignore_regions_are_read_and_checked(write):
    region = [4, 4, 4, 8, 8, 8]
    file = read_targets(write("t.json", "targets", [wanted("x", ignore=[region]), wanted("y")]))
    assert file.cases[0].ignore.tolist() == [region]
    assert file.cases[1].ignore is None
    with pytest.raises(UserError, match=r"case 'x', ignore regions: box 0 .*max corner lies below"):
        read_targets(write("t.json", "targets", [wanted("x", ignore=[[4, 4, 4, 8, 8, 3]])]))


def test_inclusive_boxes_get_their_last_voxel(write):
    one_voxel = [5, 5, 5, 5, 5, 5]
    p = read_predictions(write("p.json", "predictions", [found("x", boxes=[one_voxel])]), "inclusive")
    t = read_targets(write("t.json", "targets", [wanted("x", boxes=[one_voxel], ignore=[BOX])]), "inclusive")
    assert p.cases[0].boxes.tolist() == t.cases[0].boxes.tolist() == [[5, 5, 5, 6, 6, 6]]
    assert t.cases[0].ignore.tolist() == [[0, 0, 0, 3, 3, 3]]
    with pytest.raises(UserError, match="inclusive, but the frame is 'lps_mm'"):
        read_predictions(write("p.json", "predictions", [found("x")], frame="lps_mm"), "inclusive")


def test_a_file_without_predictions_is_refused(write, tmp_path):
    with pytest.raises(UserError, match="'predictions' must be a list with at least one entry"):
        read_predictions(write("p.json", "predictions", []))
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(UserError, match="not a JSON file"):
        read_predictions(tmp_path / "empty.json")
