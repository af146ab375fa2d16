"""Runs that were kept offline are sent run by run, by wandb's own program."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d import cli
from medpretrain3d.atomic import locked_folder
from medpretrain3d.errors import UserError
from medpretrain3d.study import sync


def a_run(folder: Path, *parts: str, sent: bool = False) -> Path:
    for part in parts:
        place = folder / "wandb" / f"offline-run-{part}-abc"
        place.mkdir(parents=True)
        (place / "run-abc.wandb").write_bytes(b":W&B")
        if sent:
            (place / "run-abc.wandb.synced").touch()
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Folder and words of each call of wandb, which sends all but the runs called `refused`."""
    found = []

    def run(words, cwd, check):
        found.append((cwd, words[1:]))
        for part in words[4:]:
            if cwd.name != "refused":
                (cwd / part / "run-abc.wandb.synced").touch()

    monkeypatch.setattr(sync.subprocess, "run", run)
    return found


def test_parts_of_a_run_are_sent_together_inside_its_folder(tmp_path, calls, capsys):
    run = a_run(tmp_path / "g/continued", "20260102_000000", "20260101_000000")
    a_run(tmp_path / "g/known", "20260101_000000", sent=True)
    assert cli.main(["study", "sync", str(tmp_path)]) == 0
    parts = [f"wandb/offline-run-2026010{day}_000000-abc" for day in (1, 2)]
    assert calls == [(run, ["-m", "wandb", "sync", *parts])]
    assert "1 of 1 runs sent" in capsys.readouterr().out
    assert cli.main(["study", "sync", str(tmp_path)]) == 0
    assert len(calls) == 1  # nothing is sent twice


def test_what_was_not_sent_is_said_and_fails(tmp_path, calls, capsys):
    a_run(tmp_path / "g/refused", "1")
    a_run(tmp_path / "g/sent", "1")
    going_on = a_run(tmp_path / "g/trains", "1")
    with locked_folder(going_on, clean=False):
        assert cli.main(["study", "sync", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "refused: not sent, 1 of 1 parts are left" in printed
    assert "trains: is going on, left for later" in printed
    assert "1 of 3 runs sent, 1 going on" in printed


def test_a_disk_that_refuses_is_not_a_run_that_is_going_on(tmp_path, calls, monkeypatch, capsys):
    a_run(tmp_path / "g/full", "1")

    def refuse(folder, clean):
        raise UserError(f"{folder}: no space left on device; free some")

    monkeypatch.setattr(sync, "locked_folder", refuse)
    assert cli.main(["study", "sync", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "g/full: no space left on device; free some" in printed
    assert "going on" not in printed
    assert "0 of 1 runs sent" in printed


def test_a_study_names_its_folder(write_study, calls):
    document = write_study()
    a_run(Path("runs/toy/mae"), "1")
    assert cli.main(["study", "sync", str(document)]) == 0
    assert [cwd for cwd, _ in calls] == [Path("runs/toy/mae")]


def test_a_folder_that_is_not_there_is_refused(capsys):
    assert cli.main(["study", "sync", "/nowhere/at/all"]) == 2
    assert "/nowhere/at/all" in capsys.readouterr().err
