"""Scans of one patient stay together where the layout of a data set does not say which they are."""

from __future__ import annotations

import json

import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.patients import PatientPattern, PatientTable
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.store import Store
from tests.ingest.miniatures import mask, nifti, scan

PATIENTS, VISITS = [f"p{number}" for number in range(6)], ("a", "b")
CASES = [f"{patient}_{visit}" for patient in PATIENTS for visit in VISITS]


def _nnunet(raw):
    for number, case in enumerate(CASES):
        nifti(raw / f"imagesTr/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"labelsTr/{case}.nii.gz", mask())
    labels = {"background": 0, "nodule": 1}
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))


def _nndetection(raw):
    for number, case in enumerate(CASES):
        nifti(raw / f"raw_splitted/imagesTr/{case}_0000.nii.gz", scan(number))
        nifti(raw / f"raw_splitted/labelsTr/{case}.nii.gz", mask())
        (raw / f"raw_splitted/labelsTr/{case}.json").write_text(json.dumps({"instances": {"1": 0}}))
    (raw / "dataset.json").write_text(json.dumps({"labels": {"0": "nodule"}, "modalities": {"0": "CT"}}))


def _pairs(raw):
    for number, case in enumerate(CASES):
        nifti(raw / f"{case}.nii.gz", scan(number))
        nifti(raw / f"{case}_seg.nii.gz", mask())


def _folder(raw):
    for number, case in enumerate(CASES):
        nifti(raw / f"{case}.nii.gz", scan(number))


def prepared(raw, store, capsys, *options):
    code = main(["prepare", str(raw), str(store), *options])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.parametrize("layout", [_nnunet, _nndetection, _pairs])
def test_folds_keep_patients_together_by_table_and_by_pattern(layout, tmp_path, capsys):
    layout(tmp_path / "raw")
    table = tmp_path / "raw" / "participants.csv"
    table.write_text("sex,case,subject\n" + "".join(f"f,{case},{case[:2]}\n" for case in CASES))
    for name, options in {
        "table": ["--patients", str(table), "--patient-column", "subject"],
        "pattern": ["--patient-pattern", r"(\w+)_[ab]"],
    }.items():
        code, told = prepared(tmp_path / "raw", tmp_path / name, capsys, *options)
        assert code == 0, told
        assert ("participants.csv" in told) == (name == "pattern"), told  # of what was not used
        store = Store(tmp_path / name)
        assert {case: store.entries[case]["patient"] for case in CASES} == {case: case[:2] for case in CASES}
        assert len(store.all_splits.folds) == 5
        for fold in store.all_splits.folds:
            assert not {case[:2] for case in fold["train"]} & {case[:2] for case in fold["val"]}
    code, told = prepared(tmp_path / "raw", tmp_path / "pattern", capsys, "--patient-pattern", r"(\w+)_[ab]")
    assert "0 prepared, 12 reused" in told


def test_a_corpus_holds_out_whole_patients(tmp_path, capsys):
    _folder(tmp_path / "raw")
    assert prepared(tmp_path / "raw", tmp_path / "store", capsys, "--patient-pattern", r"(p\d)_")[0] == 0
    train, held_out = Corpus([tmp_path / "store"]).hold_out("all", 2)
    assert len(held_out) == 2
    patients = {case.case_id[:2] for case in held_out}
    assert {case.case_id for case in train} == {case for case in CASES if case[:2] not in patients}


def test_cases_and_rows_that_meet_nothing_are_counted(tmp_path, capsys):
    _pairs(tmp_path / "raw")
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\np0_a,x\np0_b.nii.gz,x\np1_a,\np1_b,nan\np2_a,nan\ngone,y\n")
    code, told = prepared(tmp_path / "raw", tmp_path / "store", capsys, "--patients", str(table))
    assert code == 0
    assert "rows of patients.csv that meet no scan: 1 (gone)" in told
    assert "cases of no known patient, each taken for a patient of its own: 10 (p1_a, p1_b, p2_a, ...)" in told
    store = Store(tmp_path / "store")
    assert [store.entries[case]["patient"] for case in CASES[:3]] == ["x", "x", None]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("case,subject\np0_a,x\n", "patient"),
        ("case,patient\n", "holds no row"),
        ("patient\nx\n", "has no column of case ids beside 'patient'"),
        ("case,patient\nq,x\n", "none of its 1 rows meets a scan"),
        ("case,patient\np0_a,x\np0_a,y\n", "case 'p0_a' is of two patients"),
    ],
)
def test_tables_that_cannot_be_right_are_refused(table, message, tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(table)
    with pytest.raises(UserError, match=message):
        PatientTable(path)(CASES)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [(r"(p\d", "no regular expression"), (r"p\d", "has 0 groups"), (r"(p)(\d)", "has 2 groups"), (r"(q)", "fits none")],
)
def test_patterns_that_cannot_be_right_are_refused(pattern, message):
    with pytest.raises(UserError, match=message):
        PatientPattern(pattern)(CASES)


def test_a_column_without_a_table_is_refused(tmp_path, capsys):
    _pairs(tmp_path / "raw")
    code, told = prepared(tmp_path / "raw", tmp_path / "store", capsys, "--patient-column", "subject")
    assert code == 2
    assert "--patient-column subject is of a table" in told
    assert not (tmp_path / "store").exists()
