"""The lines of a run, in its folder."""

from __future__ import annotations

import re
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.engine.run_log import RunLog, log_warnings, run_log

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture
def log():
    run_log.begin()
    yield run_log
    run_log.begin()


def lines(folder) -> list[str]:
    return (folder / "log.txt").read_text(encoding="utf-8").splitlines()


def test_lines_are_kept_with_their_time_behind_those_of_earlier_sittings(log, tmp_path, capsys):
    rank_zero_print("said before the folder is known")
    log.open(tmp_path)
    log.say("one\ntwo")
    log.begin()
    log.open(tmp_path)
    log.say("three")
    assert capsys.readouterr().out.splitlines() == ["said before the folder is known", "one", "two", "three"]
    kept = lines(tmp_path)
    assert all(re.match(STAMP, line) for line in kept)
    assert [re.sub(STAMP, "", line) for line in kept] == ["said before the folder is known", "one", "two", "three"]


def test_what_is_said_of_one_run_is_not_kept_with_the_next(log, tmp_path):
    (tmp_path / "next").mkdir()
    log.open(tmp_path)
    log.begin()
    log.say("of the next run, before its folder is known")
    log.open(tmp_path / "next")
    assert lines(tmp_path) == []
    assert len(lines(tmp_path / "next")) == 1


def test_a_line_that_was_torn_by_a_crash_stays_alone(log, tmp_path):
    (tmp_path / "log.txt").write_text("2026-01-01 00:00:00 half a li")
    log.open(tmp_path)
    log.say("whole")
    assert len(lines(tmp_path)) == 2
    assert lines(tmp_path)[1].endswith(" whole")


def test_other_processes_than_the_first_say_and_keep_nothing(log, tmp_path, capsys, monkeypatch):
    log.open(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log.say("mine too")
    log.keep("an error")
    assert (capsys.readouterr().out, lines(tmp_path)) == ("", [])


def test_a_file_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, capsys):
    own = RunLog()
    (tmp_path / "log.txt").mkdir()
    own.open(tmp_path)
    own.say("one")
    own.say("two")
    told = capsys.readouterr()
    assert told.out.splitlines() == ["one", "two"]
    assert len(told.err.splitlines()) == 1
    assert "no line can be kept there any more" in told.err


def test_warnings_are_kept_and_those_of_other_processes_are_not_shown(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *seen, **_: print("shown", seen[0]))
        log_warnings()
        log.open(tmp_path)
        warnings.warn("look here", UserWarning, stacklevel=1)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        warnings.warn("look here as well", UserWarning, stacklevel=1)
    assert capsys.readouterr().out.splitlines() == ["shown look here"]
    assert [re.sub(STAMP, "", line) for line in lines(tmp_path)] == ["UserWarning: look here"]
