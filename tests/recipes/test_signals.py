"""Programs that are told to end, and programs of which a part fails."""

from __future__ import annotations

import re
import signal

import pytest

from .conftest import TWO_PROCESSES
from .started import Started

LOADERS = ("--data.num_workers", "1")

FAILING = """
import os, sys
from {stage} import __main__ as program
from {stage}.module import {module} as Module
from medpretrain3d.engine.stage import run_stage

step = Module.training_step

def failing_step(self, batch, batch_idx):
    if batch_idx == 5 and self.global_rank == 1:
        {failure}
    return step(self, batch, batch_idx)

if __name__ == "__main__":
    Module.training_step = failing_step
    run_stage(program.main)
"""

FULL_DISK = """
import errno
from pathlib import Path
import torch
from medpretrain3d.engine.stage import run_stage
from pretrain import __main__ as program

save, kept = torch.save, []

def full(state, file):
    kept.append(state["global_step"])
    if kept[-1] == kept[0]:
        return save(state, file)
    file.write(b"half")
    Path(__file__).with_name("full").touch()
    raise OSError(errno.ENOSPC, "No space left on device")

if __name__ == "__main__":
    torch.save = full
    run_stage(program.main)
"""


@pytest.fixture
def start(cube_store, tmp_path):
    started = []

    def begin(stage: str, *arguments: str, **options) -> Started:
        started.append(Started(stage, cube_store, tmp_path, *arguments, **options))
        return started[-1]

    yield begin
    for one in started:
        one.program.kill()
        one.end()


def test_sigterm_ends_with_143_and_says_from_which_step_the_same_command_continues(start):
    run = start("pretrain", *LOADERS)
    run.wait_for(lambda: run.num_steps >= 4)
    run.tell(signal.SIGTERM)
    assert run.end() == 143
    said = re.search(r"interrupted by SIGTERM; the same command continues from .* step (\d+)$", run.printed[-1])
    assert said
    assert int(said[1]) >= run.num_steps >= 4  # nothing that was trained is lost
    assert "Traceback" not in "".join(run.printed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "signum", "to", "code"),
    [("pretrain", signal.SIGTERM, "rank 1", 143), ("finetune", signal.SIGINT, "", 130)],
)
def test_a_signal_to_one_of_two_processes_ends_both_at_one_step(start, stage, signum, to, code):
    run = start(stage, *TWO_PROCESSES, *LOADERS)
    run.wait_for(lambda: run.num_steps >= 4)
    run.tell(signum, run.pids(to)[0] if to else None)
    assert run.end() == code
    assert re.search(rf"{signum.name}; the same command continues from .* step \d+$", run.printed[-1])
    assert sum("interrupted by" in line for line in run.printed) == 1
    assert "Traceback" not in "".join(run.printed)


@pytest.mark.slow
@pytest.mark.parametrize(("of", "cause"), [("rank 1", "process 1 was killed"), ("loader", "loader worker")])
def test_the_loss_of_one_process_ends_all_with_one_line(start, of, cause):
    # Without a bar, whose lines are drawn anew at any time.
    run = start("pretrain", *TWO_PROCESSES, *LOADERS, "--trainer.enable_progress_bar", "false")
    run.wait_for(lambda: run.num_steps >= 4)
    before = len(run.printed)
    run.tell(signal.SIGKILL, run.pids(of)[-1])
    assert run.end() == 1
    said = run.printed[before:]
    assert len(said) == 1, said
    assert cause in said[0]
    assert "data.batch_size" in said[0]  # in case memory ran out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "code", "num_tracebacks", "last"),
    [
        ("raise ZeroDivisionError('a bug')", 1, 1, "ZeroDivisionError: a bug"),
        ("raise MemoryError", 1, 0, "out of memory .* lower data.batch_size"),
    ],
)
def test_a_failure_of_one_of_two_processes_ends_both_and_is_told_once(start, failure, code, num_tracebacks, last):
    program = FAILING.format(stage="pretrain", module="PretrainModule", failure=failure)
    run = start("pretrain", *TWO_PROCESSES, code=program)
    assert run.end(within_s=90) == code
    assert sum("Traceback" in line for line in run.printed) == num_tracebacks
    assert re.search(last, run.printed[-1])


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_both_processes_with_one_line(start):
    run = start("pretrain", *TWO_PROCESSES, "--trainer.enable_progress_bar", "false", code=FULL_DISK)
    run.wait_for((run.folder.parent.parent / "full").exists)
    assert run.end() == 1
    printed = "\n".join(run.printed)
    assert printed.count("the disk is full") == 1
    assert re.search(r"error: .*the run continues from .*step_\d+\.ckpt$", run.printed[-1])
    assert "Traceback" not in printed
    assert [path.name for path in (run.folder / "checkpoints").glob("*.ckpt")]
    assert not list((run.folder / "checkpoints").glob("*unfinished*"))
