"""Runs of two processes on a cluster: whole, interrupted at any point, cancelled, and with a process that is lost."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from ..recipes.test_resume import outcome
from .conftest import NO_GPU, TWO_RANKS
from .jobs import ask

ONE_NODE: dict[str, Any] = {"file": "one_node.sbatch", "options": TWO_RANKS}
TWO_NODES: dict[str, Any] = {
    "file": "several_nodes.sbatch",
    "options": ("--nodes=2", "--ntasks-per-node=1", "--oversubscribe", *NO_GPU),
    "MASTER_ADDR": "127.0.0.1",  # both nodes are on this machine, and their names lead nowhere
}
POINTS = {"pretrain": ("training:4", "validation:6"), "finetune": ("training:4", "validation:6", "test:9")}


@pytest.mark.parametrize(
    ("stage", "whole_on", "cut_on"), [("pretrain", TWO_NODES, ONE_NODE), ("finetune", ONE_NODE, TWO_NODES)]
)
def test_a_run_that_was_queued_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    train, tmp_path, stage, whole_on, cut_on
):
    """On one node or two, each of which has a copy of the store; one process of all says what there is to say."""
    whole = train(stage, "whole", "--data.stage_to", str(tmp_path / "whole_{node}"), **whole_on)
    assert whole.end() == ("COMPLETED", 0), whole.log
    assert whole.facts["NumNodes"] == ("2" if whole_on is TWO_NODES else "1")
    assert len(list(tmp_path.glob("whole_*/*/cubes"))) == int(whole.facts["NumNodes"])
    assert whole.log.count(f"{stage}: ") == 1
    on_disks = ("--data.stage_to", str(tmp_path / "cut_{node}"))
    cut = train(stage, "cut", *on_disks, PAUSE_AT=" ".join(POINTS[stage]), **cut_on)
    for restarts in range(len(POINTS[stage])):
        cut.paused(restarts)
        ask("scancel", "--signal=USR1", cut.id)  # what SLURM does 90 seconds before the time is up
        cut.wait_in_queue(restarts + 1)
    assert cut.end() == ("COMPLETED", 0), cut.log
    assert cut.log.count(f"SLURM queues job {cut.id} again, and it continues") == len(POINTS[stage])
    assert cut.log.count("continuing an interrupted run from") == len(POINTS[stage])
    assert "Traceback" not in cut.log
    undisturbed, continued = (outcome(tmp_path / "g" / name) for name in ("whole", "cut"))
    assert len(undisturbed["metrics.csv"]) >= 9
    assert continued == undisturbed


def test_a_cancelled_job_keeps_its_state_and_says_how_it_goes_on(train, tmp_path):
    job = train("finetune", "run", PAUSE_AT="training:4")
    job.paused()
    ask("scancel", job.id)
    assert job.end()[0] == "CANCELLED"
    said = f"{tmp_path}/g/run: interrupted by SIGTERM; the same command continues from the checkpoint of step 5"
    job_ended_s = time.monotonic()
    while said not in job.log:  # its processes may outlive its state by some moments
        assert time.monotonic() < job_ended_s + 30, job.log
        time.sleep(0.1)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_when_a_process_is_killed_the_other_ends_and_says_why(train, rank):
    job = train("pretrain", "run", PAUSE_AT="training:4", PAUSE_RANK=rank)
    os.kill(job.paused(), signal.SIGKILL)
    killed_s = time.monotonic()
    state, code = job.end()
    assert time.monotonic() - killed_s < 60
    assert (state, code != 0) == ("FAILED", True)
    assert f"error: process {rank} was lost: it was killed, or its machine" in job.log
    assert "Traceback" not in job.log
