"""`run.restart` of a job that SLURM queues again with the same words."""

from __future__ import annotations

import pytest

from medpretrain3d.engine.restart import is_thrown_away, sitting_of_job
from medpretrain3d.engine.run import RunConfig, RunFile
from medpretrain3d.engine.stage import farewell
from medpretrain3d.run_metadata import RunMetadata


def begun_by(monkeypatch, tmp_path, job, count):
    sit_in(monkeypatch, job, count)
    run = RunConfig(root=str(tmp_path), restart=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    RunFile(run.folder).write(RunMetadata(stage="pretrain", begun_in=sitting_of_job()))
    return run


def sit_in(monkeypatch, job, count):
    for name, value in (("SLURM_JOB_ID", job), ("SLURM_RESTART_COUNT", count)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("begun", "now", "expected"),
    [
        ((None, None), (None, None), True),
        (("7", None), ("7", None), True),  # another program of one job script, or another process of this sitting
        (("7", None), ("7", "1"), False),
        (("7", "2"), ("7", "3"), False),
        (("7", "2"), ("7", "2"), True),
        (("8", None), ("7", "1"), True),
        (("7", None), (None, None), True),
        ((None, None), ("7", "1"), True),
    ],
)
def test_what_an_earlier_sitting_of_the_job_began_is_not_thrown_away(monkeypatch, tmp_path, begun, now, expected):
    run = begun_by(monkeypatch, tmp_path, *begun)
    sit_in(monkeypatch, *now)
    assert is_thrown_away(run) is expected
    assert not is_thrown_away(RunConfig(root=str(tmp_path)))


def test_a_folder_that_is_not_of_this_program_is_left_to_its_check(monkeypatch, tmp_path):
    run = begun_by(monkeypatch, tmp_path, "7", None)
    (run.folder / "run.json").write_text("[]")
    sit_in(monkeypatch, "7", "1")
    assert is_thrown_away(run)


def test_the_last_line_says_how_it_continues(tmp_path):
    run = RunConfig(root=str(tmp_path), restart=True)
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step_0000004.ckpt").touch()
    said = "the same command without run.restart continues from the checkpoint of step 4"
    assert farewell(run, 15) == f"{run.folder}: interrupted by SIGTERM; {said}"
