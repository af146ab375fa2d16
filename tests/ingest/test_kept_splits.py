"""Preparing again keeps who is held out and which case is in which fold, and says what it cannot keep."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.store.store import Store

CASES = ["p0_0", "p0_1", "p1_0", "p1_1", "p2_0", "p2_1"]


@pytest.fixture
def prepare(tmp_path, capsys):
    """Calls the command on one or more raw folders; returns the store and what was said."""

    def call(*raws, options=()):
        assert main(["prepare", *map(str, raws), str(tmp_path / "store"), *options]) == 0
        told = capsys.readouterr()
        return Store(tmp_path / "store"), told.out + told.err

    return call


def edit(store, **changes):
    file = store.path / "splits.json"
    document = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


def validated(store):
    return {case_id: number for number, fold in enumerate(store.all_splits.folds) for case_id in fold["val"]}


def test_folds_that_part_a_patient_who_is_known_now_are_dealt_out_anew(make_dataset, prepare):
    raw = make_dataset(CASES)
    store, _ = prepare(raw)
    folds = [{"train": [*CASES[:1], *CASES[2:]], "val": ["p0_1"]}, {"train": CASES[1:], "val": ["p0_0"]}]
    edit(store, folds=folds)
    store, told = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    assert "its 2 folds did not last: scans of one patient are on both sides 2 times, first 'p0_0' and 'p0_1'" in told
    assert store.all_splits.folds == ()  # of three patients none can be dealt out unasked
    main(["split", str(store.path), "--folds", "3"])
    kept = Store(store.path).all_splits
    store, told = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    assert store.all_splits == kept
    assert "splits.json" not in told


def test_official_folds_that_part_a_patient_stay_and_each_is_said(make_dataset, prepare):
    raw = make_dataset(CASES)
    folds = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[1:], "val": CASES[:1]}]
    (raw / "splits.json").write_text(json.dumps(folds))
    store, told = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    assert len(store.all_splits.folds) == 2
    assert "note: fold 1:" in told
    assert "1 patients have scans in train and in val" in told
    assert "note: fold 0:" not in told


def test_a_new_case_goes_into_the_folds_that_are_there(make_dataset, prepare, tmp_path):
    raw = make_dataset(CASES[:4])
    store, _ = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    assert main(["split", str(store.path), "--folds", "2", "--seed", "7"]) == 0
    before, order = validated(Store(store.path)), Store(store.path).all_splits.label_order
    raw = make_dataset([*CASES[:4], "p1_2", "p9_0"])
    store, told = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    after = validated(store)
    assert {case_id: after[case_id] for case_id in before} == before
    assert after["p1_2"] == before["p1_0"]
    assert "2 cases that came after its 2 folds went into them, first 'p1_2'" in told
    for fold in store.all_splits.folds:
        assert {*fold["train"], *fold["val"]} == {*CASES[:4], "p1_2", "p9_0"}
    assert store.all_splits.label_order == order
    report = json.loads((tmp_path / "store/report.json").read_text(encoding="utf-8"))
    assert any("came after its 2 folds" in one for one in report["warnings"])
    _, told = prepare(raw, options=["--patient-pattern", r"(p\d)_"])
    assert "came after" not in told


def test_a_case_that_is_gone_leaves_the_others_in_their_folds(make_dataset, prepare, tmp_path):
    raw = make_dataset(CASES)
    store, _ = prepare(raw)
    before = validated(store)
    first = next(case_id for case_id in CASES if list(before.values()).count(before[case_id]) > 1)
    (raw / f"imagesTr/{first}_0000.nii.gz").write_bytes(b"")
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    store = Store(tmp_path / "store")
    assert validated(store) == {case_id: fold for case_id, fold in before.items() if case_id != first}
    report = json.loads((tmp_path / "store/report.json").read_text(encoding="utf-8"))
    assert any(f"1 case left its folds, first '{first}'" in one for one in report["warnings"])


def test_a_case_that_was_held_out_by_hand_is_not_trained_on(make_dataset, prepare):
    raw = make_dataset(CASES)
    store, _ = prepare(raw)
    edit(store, train=CASES[:3], test=["p2_0", "p2_1"], external=["p1_1"])
    store, told = prepare(raw)
    assert store.splits["test"] == ("p2_0", "p2_1")
    assert store.splits["external"] == ("p1_1",)
    assert store.splits["train"] == tuple(CASES[:3])
    assert not {"p2_0", "p2_1", "p1_1"} & {one for fold in store.all_splits.folds for one in fold["train"]}
    assert (
        "3 cases that the data set has for training stay held out, as that file says, first 'p1_1' in external" in told
    )
    (store.path / "splits.json").unlink()
    store, told = prepare(raw)
    assert store.splits["test"] == ()
    assert "splits.json was missing" in told


def test_what_the_data_set_says_counts_and_the_change_is_said(make_dataset, prepare, write_nifti):
    raw = make_dataset(CASES)
    (raw / "splits.json").write_text(
        json.dumps([{"train": CASES[:4], "val": CASES[4:]}, {"train": CASES[2:], "val": CASES[:2]}])
    )
    store, told = prepare(raw)
    assert "splits.json: " not in told
    official = store.all_splits.folds
    assert main(["split", str(store.path), "--folds", "3"]) == 0
    store, told = prepare(raw)
    assert store.all_splits.folds == official
    assert "its 3 folds are replaced by the 2 of the data set" in told
    store, told = prepare(raw, options=["--fold", "1"])
    assert store.splits["val"] == ("p0_0", "p0_1")
    assert "4 cases changed the split, as the data set says, first 'p0_0' from train to val" in told


def test_a_file_that_names_a_case_twice_is_no_guess(make_dataset, prepare, tmp_path, capsys):
    raw = make_dataset(CASES)
    store, _ = prepare(raw)
    edit(store, folds=None, test=["p2_0"])  # which is in train, too
    assert main(["prepare", str(raw), str(store.path)]) == 2
    assert "case 'p2_0' is in 'test' and in 'train'; keep one of them" in capsys.readouterr().err


def test_official_folds_survive_a_folder_without_any(make_dataset, prepare, tmp_path, write_nifti):
    raw = make_dataset(CASES)
    folds = [{"train": CASES[:4], "val": CASES[4:]}, {"train": CASES[2:], "val": CASES[:2]}]
    (raw / "splits.json").write_text(json.dumps(folds))
    for number in range(2):
        write_nifti(make_scan(number), f"scan_{number}.nii.gz", folder=tmp_path / "corpus")
    store, told = prepare(raw, tmp_path / "corpus")
    assert [dict(fold) for fold in store.all_splits.folds] == [
        {name: tuple(ids) for name, ids in fold.items()} for fold in folds
    ]
    other = make_dataset(["other_0", "other_1"], root=tmp_path / "other")
    store, told = prepare(raw, tmp_path / "corpus", other)
    assert "2 cases for training or validation are in none of its 2 folds, first 'other_0'" in told
    (other / "splits.json").write_text(json.dumps([{"train": ["other_0"], "val": ["other_1"]}]))
    _, told = prepare(raw, tmp_path / "corpus", other)
    assert f"{raw} (2) and {other} (1) name folds each, which do not belong together: none are taken" in told


def make_scan(number):
    return np.random.default_rng(number).integers(-900, 60, (12, 10, 8)).astype(np.int16)
