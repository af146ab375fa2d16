from __future__ import annotations

import pytest

from medpretrain3d.engine.requeue import requeue


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A command that notes what it is asked and ends with a code."""

    def make(code: int = 0):
        script = tmp_path / "scontrol"
        script.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "Job may\nnot be requeued" >&2\nexit {code}\n'
        )
        script.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return make


def test_the_job_is_asked_for(scontrol):
    asked = scontrol()
    assert requeue() == "SLURM queues job 17 again, and it continues"
    assert asked.read_text() == "requeue 17\n"


def test_of_an_array_only_this_task(scontrol, monkeypatch):
    asked = scontrol()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert asked.read_text() == "requeue 12_3\n"


def test_a_refusal_is_said_in_one_line(scontrol):
    scontrol(code=1)
    assert requeue() == "SLURM did not queue job 17 again (Job may not be requeued); submit it, and it continues"


def test_without_the_command_too(scontrol):
    assert "did not queue job 17 again ([Errno 2] No such file or directory: 'scontrol')" in requeue()
