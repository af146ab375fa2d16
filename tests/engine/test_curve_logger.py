from __future__ import annotations

import csv

import pytest

from medpretrain3d.engine.curves import CurveLogger
from medpretrain3d.study.curves import read_curves


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder, steps):
    """A logger that was killed after these steps: nothing finalized it."""
    logger = CurveLogger(folder)
    for step in steps:
        logger.log_metrics({"loss": step / 10, "epoch": 0}, step=step)
    return logger


def test_a_step_is_one_row_and_columns_grow(tmp_path, path):
    logger = CurveLogger(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_metrics({"val/mAP": 0.5}, step=0)
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.finalize("success")
    first, second = rows(path)
    assert (first["step"], first["train/loss"], first["val/mAP"]) == ("0", "1.0", "0.5")
    assert (second["step"], second["train/loss"], second["val/mAP"]) == ("10", "0.5", "")


def test_every_row_is_in_the_file_as_soon_as_it_is_logged(tmp_path, path):
    logger = CurveLogger(tmp_path)
    for step in range(4):
        logger.log_metrics({"loss": step, "long name, with a comma": 0.1}, step=step)
        assert [row["step"] for row in rows(path)] == [str(number) for number in range(step + 1)]
    logger.log_metrics({"loss": 7}, step=3)  # shorter than what stood there
    logger.log_metrics({"val": 1}, step=3)
    assert path.read_text().splitlines()[-1] == ",3,7,0.1,1"
    assert len(rows(path)) == 4


def test_earlier_rows_are_not_written_again(tmp_path, path, monkeypatch):
    logger = logged(tmp_path, range(100))
    monkeypatch.setattr("medpretrain3d.engine.curves.write_text", None)  # what writes a whole file
    before = path.stat().st_ino
    for step in range(100, 200):
        logger.log_metrics({"loss": 0.5}, step=step)
    assert path.stat().st_ino == before
    assert len(rows(path)) == 200


@pytest.mark.parametrize("step", [0, 1, 15, 20, 21, 99])
def test_a_continued_run_keeps_the_rows_before_its_step(tmp_path, path, step):
    logged(tmp_path, (0, 10, 20))
    second = CurveLogger(tmp_path)
    second.continue_from(step)
    second.log_metrics({"loss": 9}, step=step + 5)
    expected = [(done, done / 10) for done in (0, 10, 20) if done < step] + [(step + 5, 9)]
    curve = read_curves(path)["loss"]
    assert list(zip(curve.steps, curve.values, strict=True)) == expected


def test_what_is_made_up_for_the_last_kept_step_joins_its_row(tmp_path, path):
    logged(tmp_path, (13, 14, 15, 16))
    second = CurveLogger(tmp_path)
    second.continue_from(15)
    second.log_metrics({"val": 0.5}, step=14)
    assert [(row["step"], row["loss"], row["val"]) for row in rows(path)] == [("13", "1.3", ""), ("14", "1.4", "0.5")]


def test_a_run_from_the_start_replaces_the_file(tmp_path, path):
    logged(tmp_path, (0, 10, 20))
    logged(tmp_path, (0,))
    assert [row["step"] for row in rows(path)] == ["0"]


@pytest.mark.parametrize(
    ("tail", "num_lines"),
    [(b"0,30,0.", 1), (b"0,3", 1), (b"\0\0\0\0", 1), (b"0,30\n", 1), (b"0,30,\xff\n", 1), (b"0,x,1\n0,40,1\n0,", 3)],
)
def test_a_line_torn_by_a_crash_is_cut_and_said(tmp_path, path, capsys, tail, num_lines):
    logged(tmp_path, (0, 10, 20))
    with path.open("ab") as file:
        file.write(tail)
    second = CurveLogger(tmp_path)
    second.continue_from(21)
    assert f"{num_lines} damaged line(s)" in capsys.readouterr().out
    second.log_metrics({"loss": 9}, step=30)
    assert [(row["step"], row["loss"]) for row in rows(path)][2:] == [("20", "2.0"), ("30", "9")]


@pytest.mark.parametrize("content", [b"", b"\n", b"\0\0\0", b"loss\n1\n", b"epoch,st"])
def test_a_file_without_a_head_is_begun_anew(tmp_path, path, content):
    path.write_bytes(content)
    second = CurveLogger(tmp_path)
    second.continue_from(5)
    second.log_metrics({"loss": 9}, step=5)
    assert path.read_text() == "epoch,step,loss\n,5,9\n"
