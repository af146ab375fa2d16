"""Which detector found a candidate, and whether it had been trained on the case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune.datamodule import FinetuneData
from medpretrain3d.cross_validation.candidates import read_candidates, refuse_other_scans
from medpretrain3d.errors import UserError
from medpretrain3d.store import Grid
from medpretrain3d.store.case import CaseData, Instance
from medpretrain3d.store.store import Store, write_case, write_index

IDS = ("a", "b", "c", "d", "copy_of_a")
SOURCE = Grid((24, 24, 24), np.diag([1.0, 1, 1, 1]))
GRID = SOURCE.resampled((2.0, 2.0, 2.0))
FALSE = [12.0, 12, 12, 16, 16, 16]  # in voxels of the file


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Cases at half the resolution of their files; c and d are of one patient, and one case is there twice."""
    folder, rows = tmp_path_factory.mktemp("stores") / "store", []
    for number, name in enumerate(IDS):
        image = np.full((1, 12, 12, 12), number % 4, np.int16)
        objects = [Instance(0, 0, (1.0, 1, 1, 4, 4, 4))]
        patient = "p" if name in "cd" else None
        one = CaseData(name, image, GRID, SOURCE, name, objects, voxels=str(number % 4), patient=patient)
        rows.append(write_case(folder, one))
    splits = {"train": ["a", "b", "copy_of_a"], "val": ["d"], "test": ["c"]}
    folds = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]
    write_index(folder, ["x"], (2.0, 2.0, 2.0), rows, splits, folds=folds)
    return Store(folder)


def write(path, detectors, cases=("a", "b"), grid=SOURCE):
    entries = [
        {
            "case": case,
            "boxes": [[11.5, 11.5, 11.5, 15.5, 15.5, 15.5]],
            "scores": [0.5],
            "labels": [0],
            "boxes_vox": [FALSE],
            "grid": grid.to_json(),
        }
        for case in cases
    ]
    stated = {} if detectors is None else {"detectors": detectors}
    path.write_text(json.dumps({"classes": ["x"], "frame": "lps_mm", **stated, "predictions": entries}))
    return path


def detector(fold, cases, train):
    return {"fold": fold, "cases": cases, "train_cases": train}


OUT_OF_FOLD = [detector(0, ["a"], ["b"]), detector(1, ["b"], ["a"])]


def test_boxes_are_read_in_voxels_of_the_store_whatever_its_spacing(store, tmp_path):
    found = read_candidates(write(tmp_path / "p.json", OUT_OF_FOLD), store)
    assert list(found) == ["a", "b"]
    np.testing.assert_allclose(found["a"].boxes, [[6, 6, 6, 8, 8, 8]], atol=1e-9)
    assert found["b"].scores.tolist() == [0.5]


@pytest.mark.parametrize(
    ("detectors", "cases", "message"),
    [
        (None, "a", "does not say which cases its detectors were trained on, so what they found may be in-fold; give"),
        ([], "a", "does not say which cases its detectors were trained on"),
        ([detector(0, ["a"], ["a", "b"])], "a", "case 'a' is in-fold: the detector of fold 0, which looked at it, was"),
        ([detector(3, ["a"], ["copy_of_a"])], "a", "case 'a' is in-fold: the detector of fold 3"),
        ([detector(0, ["c"], ["d"])], "c", "case 'c' is in-fold"),
        ([detector(0, ["stranger"], ["stranger"])], ["stranger"], "case 'stranger' is in-fold"),
        ([detector(0, ["a"], ["b"])], "ab", "does not say which detector looked at case 'b'"),
        ([detector(0, ["a"], ["b"]), detector(1, ["a"], ["c"])], "a", "says of two detectors that they looked at case"),
    ],
)
def test_what_is_or_may_be_in_fold_is_refused(store, tmp_path, detectors, cases, message):
    path = write(tmp_path / "p.json", detectors, cases)
    with pytest.raises(UserError, match=message):
        read_candidates(path, store)


def test_another_scan_of_the_same_id_is_refused(store, tmp_path):
    path = write(tmp_path / "p.json", OUT_OF_FOLD, grid=Grid((30, 24, 24), np.eye(4)))
    with pytest.raises(UserError, match=r"case 'a' has another grid than .*: another scan has the same id"):
        read_candidates(path, store)


def test_other_voxels_under_the_same_id_are_refused_where_the_file_knows_them(store, tmp_path):
    path = write(tmp_path / "p.json", OUT_OF_FOLD)
    refuse_other_scans(path, store)  # written before it said so
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "voxels": {"a": "0", "b": "1", "elsewhere": "9"}}))
    refuse_other_scans(path, store)
    path.write_text(json.dumps({**document, "voxels": {"a": "0", "b": "7"}}))
    with pytest.raises(UserError, match=r"1 of 2 cases have other voxels in .*store than in .*, first 'b'; name the"):
        refuse_other_scans(path, store)


def run_data(store, path, **options):
    return FinetuneData(str(store.path), (8, 8, 8), 1, num_workers=0, hard_negatives=str(path), **options)


def test_a_run_says_what_its_hard_negatives_are_and_knows_their_file_wherever_it_lies(store, tmp_path, capsys):
    path = write(tmp_path / "p.json", [detector(0, ["a"], ["b"]), detector(1, ["b", "c"], ["a"])], "abc")
    data = run_data(store, path)
    assert (
        f"{path}: 2 hard negatives in 2 of 3 training cases; left out: 0 candidates that touch an annotated object or "
        "a region to ignore, 1 in no training case"
    ) in capsys.readouterr().out
    assert data.hard_negatives.hard_negatives.share == 0.5  # half of what object_share leaves
    moved = tmp_path / "moved.json"
    moved.write_bytes(path.read_bytes())
    assert run_data(store, moved).metadata() == data.metadata()
    moved.write_bytes(path.read_bytes() + b"\n")
    assert run_data(store, moved).metadata().hard_negatives_sha256 != data.metadata().hard_negatives_sha256
    share = run_data(store, path, object_share=0.2, hard_negative_share=0.2).hard_negatives.hard_negatives.share
    assert share == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_negative_share": 0.6}, "data.hard_negative_share 0.6: object_share 0.5 and foreground_share 0.0 leave"),
        ({"object_share": 1.0}, "data.hard_negative_share absent: object_share 1.0 and .* leave 0 of the crops"),
        ({"hard_negatives": None, "hard_negative_share": 0.2}, "there are no hard negatives; name their file"),
        ({"hard_negatives": "gone.json"}, "gone.json"),
    ],
)
def test_options_that_make_no_sense_are_refused(store, tmp_path, options, message):
    path = write(tmp_path / "p.json", OUT_OF_FOLD)
    given = {"hard_negatives": str(path), **options}
    with pytest.raises(UserError, match=message):
        FinetuneData(str(store.path), (8, 8, 8), 1, num_workers=0, **given)
