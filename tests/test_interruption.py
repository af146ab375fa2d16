from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medpretrain3d import interruption
from medpretrain3d.cli import main
from medpretrain3d.commands import inspect
from medpretrain3d.interruption import NOTICE, Interrupted, farewell_at_start, requeue

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import os, signal, sys, time
from medpretrain3d.interruption import Interrupted, signals
signals.take()
signals.grace_s = float(sys.argv[1])
signals.farewell = lambda signum: f"farewell {signum}"
def wait():
    print("ready", flush=True)
    time.sleep(60)
def stuck():  # where Python cannot run a handler: the main thread does not come back from C
    import ctypes
    mutex = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    print("ready", flush=True)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
RAISES = "signals.mode = 'raise'\ntry:\n    wait()\nfinally:\n    print('cleaned up', flush=True)"
SKIP_RECORDS = "signals.mode = 'note'\nwait()\nsignals.check()"
STUCK = "signals.mode = 'raise'\nstuck()"
STEPS = """
signals.mode = 'note'
print("ready", flush=True)
while signals.received is None:
    time.sleep(0.01)
print("end of step", flush=True)
signals.check()
"""


@pytest.fixture
def start():
    programs = []

    def begin(code: str, grace_s: float = 20.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM + code, str(grace_s)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        programs.append(program)
        return program

    yield begin
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_main_thread_with_its_own_exit_code_after_cleaning_up(start, signum):
    program = start(RAISES)
    program.send_signal(signum)
    printed, errors = program.communicate(timeout=20)
    assert (printed, errors) == ("cleaned up\n", "")
    assert program.returncode == 128 + signum


def test_a_step_is_ended_first(start):
    program = start(STEPS)
    program.send_signal(signal.SIGTERM)
    assert program.communicate(timeout=20) == ("end of step\n", "")
    assert program.returncode == 143


def test_before_a_program_has_begun_it_ends_at_once(start):
    program = start("wait()")
    program.send_signal(signal.SIGTERM)
    assert program.communicate(timeout=20)[1] == "farewell 15\n"
    assert program.returncode == 143


@pytest.mark.parametrize("code", [SKIP_RECORDS, STUCK])
def test_what_does_not_end_by_itself_is_ended(start, code):
    program = start(code, grace_s=0.5)
    time.sleep(0.5)  # `ready` is printed before the main thread is stuck
    program.send_signal(signal.SIGTERM)
    assert program.communicate(timeout=20)[1] == "farewell 15\n"
    assert program.returncode == 143


def test_ctrl_c_twice_ends_at_once(start):
    program = start(SKIP_RECORDS, grace_s=50)
    program.send_signal(signal.SIGINT)
    started = time.monotonic()
    while program.poll() is None and time.monotonic() < started + 20:
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=20)[1] == "farewell 2\n"
    assert program.returncode == 130


def test_a_child_made_by_fork_has_signals_of_its_own(start):
    program = start(
        """
signals.mode = 'raise'
child = os.fork()
if not child:
    time.sleep(60)
print(child, flush=True)
wait()
""".replace("child = os.fork()", "print('ready', flush=True)\nchild = os.fork()")
    )
    child = int(program.stdout.readline())
    program.stdout.readline()
    os.kill(child, signal.SIGTERM)
    time.sleep(0.5)
    assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=20)
    assert program.returncode == 143


def test_a_signal_that_comes_to_a_child_while_it_is_forked_is_the_childs():
    killed_early = "import os\nos.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), 15))\n"
    forks = """
signals.mode = 'raise'
child = os.fork()
if not child:
    time.sleep(60)
print(os.WTERMSIG(os.waitpid(child, 0)[1]), signals.received)
"""
    command = [sys.executable, "-c", killed_early + PROGRAM + forks, "20"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=50).stdout == "15 None\n"


def test_a_command_that_is_told_to_end_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "medpretrain3d.cli", "phantom", str(tmp_path / "raw"), "--cases", "50"]
    program = subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while not list((tmp_path).rglob("*.nii.gz")):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130
    assert errors.count("\n") == 1, errors
    assert "call again to go on" in errors


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A command that notes what it is asked and ends with a code."""

    def make(code: int = 0, end: str = ""):
        script = tmp_path / "scontrol"
        said = "" if end else 'echo "Job may\nnot be requeued" >&2\n'
        script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{said}{end or f"exit {code}"}\n')
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


def test_a_command_that_ends_with_the_job_has_asked(scontrol):
    """SLURM ends all processes of a job that it queues again, also the one that asked for it."""
    scontrol(end="kill -TERM $$")
    assert requeue() == "SLURM queues job 17 again, and it continues"


def test_without_the_command_too(scontrol):
    assert "did not queue job 17 again ([Errno 2] No such file or directory: 'scontrol')" in requeue()


IMPORTING = """
import runpy, sys, time
awaited = sys.argv.pop()
class Waits:
    def find_spec(self, name, path, target=None):
        if name == awaited:
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Waits())
runpy.run_module(PROGRAM, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("medpretrain3d", "medpretrain3d.cli"),
        ("pretrain", "medpretrain3d.command_line.stages"),
        ("finetune", "medpretrain3d.engine.stage"),
    ],
)
def test_a_notice_that_comes_while_a_program_is_still_importing_has_the_job_queued_again(scontrol, program, module):
    asked = scontrol()
    code = IMPORTING.replace("PROGRAM", repr(program))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-c", code, module]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "importing\n"
        started.send_signal(NOTICE)
        said = started.communicate(timeout=20)[1]
    assert said == "interrupted by SIGUSR1 before it began; SLURM queues job 17 again, and it continues\n"
    assert started.returncode == 128 + NOTICE
    assert asked.read_text() == "requeue 17\n"


def test_other_processes_of_the_run_wait_for_the_one_that_asks(scontrol, monkeypatch):
    asked, waited = scontrol(), []
    monkeypatch.setattr(interruption.time, "sleep", waited.append)
    for name, value in {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    assert farewell_at_start(NOTICE) == ""
    assert waited == [10]
    assert not asked.exists()
    assert farewell_at_start(signal.SIGTERM) == ""


def test_a_command_that_gets_the_notice_is_queued_again(scontrol, monkeypatch, capsys):
    def told(_):
        raise Interrupted(NOTICE)

    asked = scontrol()
    monkeypatch.setattr(inspect, "run", told)
    assert main(["inspect", "x"]) == 138
    said = "interrupted by SIGUSR1; what was finished is kept; SLURM queues job 17 again, and it continues\n"
    assert capsys.readouterr().err == said
    assert asked.read_text() == "requeue 17\n"
