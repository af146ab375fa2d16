"""Runs that are started wrongly end with a line, where they would have waited for ever."""

from __future__ import annotations

import time

import pytest

from .conftest import NO_GPU

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
PER_NODE = "--ntasks-per-node=2"


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("stage", "program", "tasks", "said"),
    [
        ("pretrain", "medpretrain3d", PER_NODE, "started without srun, in a job of 2 tasks"),
        ("finetune", "srun medpretrain3d", "--ntasks=2", "got 2 tasks by --ntasks"),
    ],
)
def test_tasks_that_do_not_make_a_run(train, stage, program, tasks, said):
    job = train(stage, "run", *TWO, options=(tasks, *NO_GPU), file=program)
    assert job.end() == ("FAILED", 2)
    (line,) = errors(job.log)
    assert said in line
    assert "wanted" in line


def test_a_process_that_does_not_come_is_waited_for_within_bounds(train):
    second_stays_away = "srun sh -c '[ $SLURM_PROCID = 1 ] || exec medpretrain3d \"$@\"' sh"
    variables = {"MEDPRETRAIN3D_RENDEZVOUS_S": "5"}
    job = train("pretrain", "run", *TWO, options=(PER_NODE, *NO_GPU), file=second_stays_away, **variables)
    assert job.end() == ("FAILED", 2)
    (line,) = errors(job.log)
    assert "waited 5 s at 127.0.0.1:" in line
    assert "for 1 of 2 processes that did not come: 1;" in line


def test_when_the_first_process_refuses_the_others_do_not_wait(train, tmp_path):
    run = tmp_path / "g" / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"stage": "finetune", "finished": true}')
    (run / "config.yaml").write_text("no: configuration")
    started_s = time.monotonic()
    job = train("finetune", "run", *TWO, options=(PER_NODE, *NO_GPU), file="srun medpretrain3d")  # without -K
    assert job.end() == ("FAILED", 2)
    assert time.monotonic() - started_s < 100  # of the 600 s that a process waits for the first one
    (line,) = errors(job.log)
    assert f"{run / 'config.yaml'}: not readable as a configuration" in line
