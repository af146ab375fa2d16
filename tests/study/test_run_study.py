"""A study of toy size, run as a user does: killed and continued, changed, and with jobs that fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medpretrain3d.study import run_study
from medpretrain3d.study.document import read_study
from medpretrain3d.study.record import is_complete
from medpretrain3d.study.run_study import progress_of
from medpretrain3d.study.workflow import Machine

ROOT = Path(__file__).resolve().parents[2]
ONE_CORE = {"pretrain": {"cores": 1}, "finetune": {"cores": 1}}


def start(*words: str, command: str = "study") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    whole = [sys.executable, "-m", "medpretrain3d.cli", command, *words]
    return subprocess.Popen(whole, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(*words: str, expect: int = 0) -> str:
    with start(*words) as program:
        printed = program.communicate(timeout=3600)[0]
    assert program.returncode == expect, printed[-3000:]
    return printed


def run_command(command: str, *words: str) -> str:
    with start(*words, command=command) as program:
        printed = program.communicate(timeout=3600)[0]
    assert program.returncode == 0, printed[-3000:]
    return printed


def begun(printed: str) -> set[str]:
    return set(re.findall(r"^((?:pretrain|finetune) .*): begins", printed, re.M))


def done(path: Path) -> set[str]:
    return {job.name for job in progress_of(read_study(path)).of_state("done")}


def with_results(path: Path) -> set[str]:
    """Runs whose result is whole, also where the launcher was killed before it could note that."""
    progress = progress_of(read_study(path))
    records = progress.records
    return {
        job.name
        for job in progress.jobs.jobs
        if job.kind != "prepare" and is_complete(records.run_folder(job), job.kind, records.path(job, "done"))
    }


@pytest.mark.slow
def test_a_study_is_killed_continued_and_changed_and_runs_what_it_has_to(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_study(resources=ONE_CORE, labels=["all"])
    with start("run", "study.yaml", "--cores", "2") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if "pretrain mae, seed 0: done" in line:
                break
        first.kill()
        rest = first.stdout.read()  # until every program that inherited the pipe has ended
    assert first.returncode == -signal.SIGKILL
    with start("run", "study.yaml", "--cores", "2") as second:
        assert second.stdout is not None
        next(line for line in second.stdout if "begins" in line)
        second.terminate()
        rest += second.stdout.read()
    assert second.returncode == 128 + signal.SIGTERM, rest
    assert "interrupted by SIGTERM; what was finished is kept, call again to go on" in rest
    before, whole = done(path), with_results(path)
    assert "pretrain mae, seed 0" in before
    jobs = {job.name for job in progress_of(read_study(path)).jobs.jobs}
    assert (len(jobs), len(jobs - before) > 0) == (9, True), rest

    printed = run("run", "study.yaml", "--cores", "2")
    assert begun(printed) == jobs - before - whole
    assert done(path) == jobs
    assert "toy: all 9 jobs done" in printed
    assert (tmp_path / "runs/toy/report.html").is_file()
    assert "no verdict on mae against scratch (2 seeds, 6 test cases of 2 folds" in printed
    assert "no tested run from scratch" not in printed
    assert (tmp_path / "runs/toy/latest/mae-seed1-fold0/bundle/bundle.json").is_file()

    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", "finetune": {"model.optim.lr": 0.004}}}
    arms["long"] = {"finetune": {"trainer.max_steps": 3}}
    path = write_study(resources=ONE_CORE, arms=arms, labels=["all"], seeds=1, folds=[0])
    again = {f"finetune {arm}, cubes, labels all, seed 0, fold 0" for arm in ("mae", "long")}
    planned = run("plan", "study.yaml")
    assert set(re.findall(r"^(\w+ .*?) +waiting ", planned, re.M)) == again
    assert "finetune mae, cubes, labels all, seed 0, fold 0: runs again, model.optim.lr 0.002 -> 0.004" in planned
    printed = run("run", "study.yaml", "--cores", "2")
    assert begun(printed) == again
    assert begun(run("run", "study.yaml")) == set()

    page = tmp_path / "runs/toy/report.html"
    page.unlink()
    run("report", "study.yaml")
    assert page.is_file()

    (tmp_path / "broken.pt").write_bytes(b"no weights")
    bad = {"pretrain": "pretrain.yaml", "with": {"data.split": "nowhere"}}
    arms = {
        "scratch": {},
        "broken": {"init_from": "broken.pt"},
        "bad": bad,
        "warm": {"finetune": {"model.optim.lr": 0.01}},
    }
    write_study(resources=ONE_CORE, arms=arms, labels=["all"], seeds=1, folds=[0], hypotheses=[])
    printed = run("run", "study.yaml", "--cores", "2", expect=1)
    assert begun(printed) == {
        "pretrain bad, seed 0",
        *(f"finetune {arm}, cubes, labels all, seed 0, fold 0" for arm in ("broken", "warm")),
    }
    assert "finetune warm, cubes, labels all, seed 0, fold 0: done" in printed
    assert "2 of 5 jobs failed; not begun for want of them: finetune bad, cubes, labels all, seed 0, fold 0" in printed
    status = run("status", "study.yaml")
    assert "split 'nowhere' has no case" in status
    assert "broken.pt" in status


def test_what_is_to_run_is_said_by_its_kinds(
    write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_study, "run_jobs", lambda jobs, records, machine: None)
    scratch: dict[str, dict[str, object]] = {"scratch": {}}
    for changed, said in (
        ({"arms": scratch}, "2 jobs to run (finetune)"),
        ({}, "5 jobs to run (pretrain, finetune)"),
    ):
        path = write_study(seeds=1, labels=["all"], hypotheses=[], **changed)
        run_study.run_missing(read_study(path), Machine())
        assert f"toy: {said}, 0 reused" in capsys.readouterr().out


@pytest.mark.slow
def test_one_command_trains_the_folds_that_are_missing_and_makes_their_result(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    write_study()
    printed = run_command("cross-validate", "--config", "finetune.yaml", "-o", "out", "--cores", "2")
    assert begun(printed) == {f"finetune scratch, finetune, labels all, seed 0, fold {fold}" for fold in (0, 1)}
    assert "mean ± std" in printed
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["num_cases"], set(metrics["trivial_baselines"])) == (6, {"position prior", "random boxes"})
    assert len(list((tmp_path / "out/ensemble").glob("fold_*/bundle.json"))) == 2
    (gone,) = (tmp_path / "runs/finetune_folds").glob("*fold1*")
    shutil.rmtree(gone)
    again = run_command("cross-validate", "--config", "finetune.yaml", "-o", "out", "--cores", "2")
    assert begun(again) == {"finetune scratch, finetune, labels all, seed 0, fold 1"}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
