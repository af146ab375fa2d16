from __future__ import annotations

import numpy as np

from medpretrain3d.store.case import CaseData, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.split_notes import split_notes
from medpretrain3d.store.store import Store, write_index

GRID = Grid((4, 4, 4), np.eye(4))


def make(folder, splits, patients, scans=None, folds=()):
    rows = []
    for case_id in [case_id for ids in splits.values() for case_id in ids]:
        scan, image = (scans or {}).get(case_id, case_id), np.zeros((1, 4, 4, 4), np.int16)
        one = CaseData(case_id, image, GRID, GRID, "x.nii", patient=patients.get(case_id), voxels=scan)
        rows.append(write_case(folder, one))
    write_index(folder, ["a"], None, rows, splits, folds=folds)
    return Store(folder)


def test_patients_on_both_sides_and_copies_are_said(tmp_path):
    splits = {"train": ["a", "b", "c"], "val": ["v"], "test": ["x", "y"]}
    quiet = make(tmp_path / "quiet", splits, {"a": "1", "b": "1", "x": "2", "y": "2"})
    assert split_notes(quiet) == []
    store = make(tmp_path / "s", splits, {"a": "1", "x": "1", "y": "1", "b": "2", "v": "2"}, {"c": "v"})
    copies, tested, validated = split_notes(store)
    assert (
        "1 cases hold the same voxels as a case of another split and are used by nothing, first 'c', a copy" in copies
    )
    assert "1 patients have scans in train and in test (2 test cases), first 'a' and 'x'" in tested
    assert "1 patients have scans in train and in val (1 val cases), first 'b' and 'v'" in validated


def test_of_a_fold_its_own_sides_count(tmp_path):
    folds = [{"train": ["a"], "val": ["b"]}, {"train": ["a", "b"], "val": []}]
    store = make(tmp_path, {"train": ["a", "b"]}, {"a": "1", "b": "1"}, folds=folds)
    assert "1 patients have scans in train and in val" in split_notes(store, 0)[0]
    assert split_notes(store, 1) == split_notes(store) == []
