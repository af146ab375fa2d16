"""A job of SLURM that is stopped continues from where it was, and its final weights are the ones that are tested."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from .sittings import sit
from .test_resume import arguments, outcome


@pytest.fixture
def job(tmp_path):
    """What a process sees in a job of SLURM, with an `scontrol` that notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    tasks = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    names = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    return {**tasks, **names, "PATH": f"{folder}:{os.environ['PATH']}"}


def names(folder: Path) -> set[str]:
    return {path.name for path in [*folder.glob("*.ckpt"), *folder.glob("checkpoints/*")]}


def test_a_notice_keeps_the_state_asks_for_the_queue_and_the_run_continues(cube_store, tmp_path, job):
    whole, cut = (arguments("finetune", cube_store, tmp_path, name, []) for name in ("whole", "cut"))
    same = {"stage": "finetune", "environment": job}
    in_a_step = {"point": "forward", "step": 4, "signal": 10}
    in_a_validation = {"point": "validation", "step": 6, "signal": 10}
    folder = tmp_path / "g" / "cut"
    sittings = [
        {"stage": "finetune", "arguments": whole},
        {**same, "arguments": cut, "cut": in_a_step},
        {**same, "arguments": cut, "cut": in_a_validation},
    ]
    assert sit(sittings, tmp_path) == [[0], [138], [138]]
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 4242"] * 2
    assert names(folder) == {"last.ckpt", "step_0000005.ckpt", "step_0000006.ckpt"}
    printed = (tmp_path / "sittings.log").read_text(encoding="utf-8")
    assert "interrupted by SIGUSR1 at step 5; SLURM queues job 4242 again, and it continues" in printed
    assert "Traceback" not in printed
    # As an earlier version left it: a newer state in Lightning's own file, beside an older one of its name.
    shutil.copy(folder / "checkpoints" / "step_0000006.ckpt", folder / "hpc_ckpt_1.ckpt")
    (folder / "checkpoints" / "step_0000006.ckpt").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / "step_0000005.ckpt").rename(folder / "checkpoints" / "last.ckpt")
    assert sit([{**same, "arguments": cut}], tmp_path) == [[0]]
    assert "continuing an interrupted run from" in (tmp_path / "sittings.log").read_text(encoding="utf-8")
    assert names(folder) == {"last.ckpt", "step_0000006.ckpt", "step_0000009.ckpt"}
    assert outcome(folder) == outcome(tmp_path / "g" / "whole")


def test_a_run_that_begins_again_does_so_once_however_often_its_job_is_queued_again(cube_store, tmp_path, job):
    whole = arguments("pretrain", cube_store, tmp_path, "whole", [])
    cut = arguments("pretrain", cube_store, tmp_path, "cut", ["--run.restart", "true"])
    again = {**job, "SLURM_RESTART_COUNT": "1"}
    sittings = [
        {"stage": "pretrain", "arguments": whole},
        {
            "stage": "pretrain",
            "arguments": cut,
            "environment": job,
            "cut": {"point": "forward", "step": 4, "signal": 10},
        },
        {"stage": "pretrain", "arguments": cut, "environment": again},
        {"stage": "pretrain", "arguments": cut, "environment": again},
    ]
    assert sit(sittings, tmp_path) == [[0], [138], [0], [2]]
    printed = (tmp_path / "sittings.log").read_text(encoding="utf-8")
    assert printed.count("continuing an interrupted run from") == 1
    assert "this run is finished" in printed  # queued again by a failure of the node behind its end
    folder = tmp_path / "g" / "cut"
    assert outcome(folder) == outcome(tmp_path / "g" / "whole")
    (folder / "stale").touch()
    assert sit([{"stage": "pretrain", "arguments": cut, "environment": {**job, "SLURM_JOB_ID": "4243"}}], tmp_path) == [
        [0]
    ]
    assert not (folder / "stale").exists()  # another job begins it again


@pytest.mark.slow
def test_a_notice_to_one_of_two_processes_ends_both_and_asks_once(cube_store, tmp_path, job):
    job = {name: job[name] for name in ("SLURM_JOB_ID", "PATH")}  # as of a launcher that SLURM does not know
    both = ["--data.batch_size", "1"]
    whole, cut = (arguments("finetune", cube_store, tmp_path, name, both) for name in ("whole", "cut"))
    same = {"stage": "finetune", "num_processes": 2, "environment": job}
    in_a_step = {"point": "forward", "step": 4, "signal": 10}
    in_a_validation = {"point": "validation", "step": 6, "signal": 10}
    sittings = [
        {**same, "arguments": whole},
        {**same, "arguments": cut, "cut": in_a_step, "cut_rank": 1},
        {**same, "arguments": cut, "cut": in_a_validation, "cut_rank": 1},
        {**same, "arguments": cut},
    ]
    assert sit(sittings, tmp_path) == [[0, 0], [138, 138], [138, 138], [0, 0]]
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 4242"] * 2
    printed = (tmp_path / "sittings.log").read_text(encoding="utf-8")
    assert printed.count("interrupted by SIGUSR1") == 2
    assert "HUNG" not in printed
    assert "Traceback" not in printed
    assert outcome(tmp_path / "g" / "cut") == outcome(tmp_path / "g" / "whole")
