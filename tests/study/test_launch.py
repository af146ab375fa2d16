from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medpretrain3d.atomic import locked
from medpretrain3d.study.launch import ProgramInterrupted, environment_with, main
from medpretrain3d.study.record import RECORD, Record, is_complete


def write_record(folder: Path, store: Path, *commands: list[str]) -> Path:
    path = folder / "prepare-00.json"
    facts = {"name": "prepare it", "kind": "prepare", "code": "0", "recipe": "0", "identity": "00"}
    record = {**facts, "setting": {}, "facts": {}, "needs": [], "commands": list(commands), "folder": str(store)}
    RECORD.write(path, Record(**record))
    return path


def test_a_job_whose_programs_end_well_leaves_its_mark_and_a_log(tmp_path, cubes, capsys):
    path = write_record(tmp_path, cubes, ["datasets"], ["split", str(cubes), "--folds", "2"])
    assert main([str(path)]) == 0
    assert is_complete(cubes, "prepare", path.with_suffix(".done"))
    log = path.with_suffix(".log").read_text()
    assert "$ medpretrain3d datasets\n" in log
    assert "fold 1: train 3, val 3" in log
    assert "prepare it: done in" in capsys.readouterr().out


def test_a_store_that_was_changed_since_is_not_done(tmp_path, cubes, write_study):
    store = tmp_path / "cubes"
    path = write_record(tmp_path, store)
    assert main([str(path)]) == 0
    splits = json.loads((store / "splits.json").read_text())
    (store / "splits.json").write_text(json.dumps({**splits, "folds": splits["folds"][::-1]}))
    assert not is_complete(store, "prepare", path.with_suffix(".done"))


def test_candidates_that_were_changed_since_are_not_done(tmp_path):
    folder = tmp_path / "folds"
    path = write_record(tmp_path, folder)
    folder.mkdir()
    (folder / "predictions.json").write_text("{}")
    assert main([str(path)]) == 0
    assert is_complete(folder, "prepare", path.with_suffix(".done"))
    (folder / "predictions.json").write_text("{ }")
    assert not is_complete(folder, "prepare", path.with_suffix(".done"))


def test_a_job_that_fails_says_how_and_where_its_log_is(tmp_path, cubes, capsys):
    path = write_record(tmp_path, cubes, ["split", "gone"], ["datasets"])
    assert main([str(path)]) == 2
    assert not path.with_suffix(".done").exists()
    assert json.loads(path.with_suffix(".failed").read_text())["exit_code"] == 2
    log = path.with_suffix(".log").read_text()
    assert "gone: no such folder" in log
    assert "medpretrain3d datasets" not in log
    assert "prepare it: failed, its program ended with exit code 2 (gone: no such folder" in capsys.readouterr().out
    path = write_record(tmp_path, cubes, ["split", "lost"])  # the log of the same job goes on
    assert main([str(path)]) == 2
    said = capsys.readouterr().out
    assert "exit code 2 (lost: no such folder" in said
    assert "gone" not in said


def test_programs_that_leave_no_result_have_failed(tmp_path, capsys):
    path = write_record(tmp_path, tmp_path / "nothing", ["datasets"])
    assert main([str(path)]) == 2
    assert path.with_suffix(".failed").exists()


@pytest.mark.parametrize("fault", ["no device is free", "a damaged record"])
def test_a_job_that_cannot_begin_says_why(tmp_path, cubes, fault):
    """Without its file of failure it is shown as waiting, and nothing says for what."""
    path = write_record(tmp_path, cubes, ["datasets"])
    words = [str(path)]
    if fault == "a damaged record":
        path.write_text("{")
    else:
        environment_with(tmp_path, 1, "5")
        words += ["--gpus", "1", "--devices", "5"]
    assert main(words) == 2
    failure = json.loads(path.with_suffix(".failed").read_text())
    why = "is not valid JSON" if fault == "a damaged record" else "got 0 free of the devices 5, wanted 1"
    assert failure["exit_code"] == 2
    assert failure["message"].startswith("it did not begin: ")
    assert why in failure["message"]


def test_a_job_that_another_process_is_at_work_at_has_not_failed(tmp_path, cubes, capsys):
    path = write_record(tmp_path, cubes, ["datasets"])
    with locked(path.with_suffix(".done")):
        assert main([str(path)]) == 2
    assert "is at work here" in capsys.readouterr().err
    assert not path.with_suffix(".failed").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_program_too_and_is_no_failure(tmp_path, signum):
    """After SLURM's notice, which the engine around it ignores, the program has the job queued again, and it alone."""
    path = write_record(tmp_path, tmp_path / "raw", ["phantom", str(tmp_path / "raw"), "--cases", "500"])
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    job = subprocess.Popen(
        [sys.executable, "-m", "medpretrain3d.study.launch", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    )
    assert job.stdout is not None
    assert "begins" in job.stdout.readline()
    while not (tmp_path / "raw").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signum)
    assert "interrupted; the next call continues" in job.communicate(timeout=60)[0]
    assert job.returncode == 128 + signum
    assert not path.with_suffix(".failed").exists()
    assert f"interrupted by {signum.name}" in path.with_suffix(".log").read_text()
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if signum == signal.SIGUSR1 else "")


@pytest.mark.parametrize(
    ("code", "said"),
    [(138, "the next call continues"), (-10, "SLURM queues job 7 again"), (0, "SLURM queues job 7 again")],
)
def test_a_program_that_had_no_time_to_ask_for_it_is_queued_again(tmp_path, monkeypatch, capsys, code, said):
    """By whoever started it: the notice came before it took signals, or when it had ended."""

    def run_program(*_):
        raise ProgramInterrupted(signal.SIGUSR1, code)

    monkeypatch.setattr("medpretrain3d.study.launch.run_program", run_program)
    monkeypatch.setattr("medpretrain3d.study.launch.requeue", lambda: "SLURM queues job 7 again, and it continues")
    assert main([str(write_record(tmp_path, tmp_path / "raw", ["datasets"]))]) == 138
    assert f"prepare-00: interrupted; {said}" in capsys.readouterr().out
    assert not (tmp_path / "prepare-00.failed").exists()


def test_no_two_jobs_have_one_device(tmp_path):
    first, second = environment_with(tmp_path, 1, "4,7"), environment_with(tmp_path, 1, "4,7")
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4", "7")
    with pytest.raises(ValueError, match="got 0 free of the devices 4,7, wanted 1"):
        environment_with(tmp_path, 1, "4,7")
    part = "MIG-GPU-8932f937/1/0"  # of a GPU, as older drivers name it
    assert environment_with(tmp_path, 1, part)["CUDA_VISIBLE_DEVICES"] == part


def test_a_job_of_slurm_starts_its_own_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    environment = environment_with(tmp_path, 0, "")
    assert environment == {name: value for name, value in os.environ.items() if name != "SLURM_NTASKS"}
