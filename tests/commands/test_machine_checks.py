"""What a machine lacks is noted with what to do; none of it is an error."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections import namedtuple

import pytest
import torch

from medpretrain3d.commands import doctor, machine_checks
from medpretrain3d.interruption import Interrupted

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(name: str) -> str:
        getattr(machine_checks, name)()
        return capsys.readouterr().out.strip()

    return call


def test_little_shared_memory(said, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**26, 0, 2**26))
    assert said("shared_memory").startswith("note: 0.06 GiB free in /dev/shm; large batches go through pipes")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**33, 0, 2**33))
    assert said("shared_memory") == "8.0 GiB free in /dev/shm"


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ((1024, 524288), "'Too many open files': ulimit -n 65536 (at most 524288 here)"),
        ((1024, 8192), "ulimit -n 8192 (at most 8192 here)"),
        ((1024, resource.RLIM_INFINITY), "ulimit -n 65536 (at most unlimited here)"),
        ((65536, 65536), "65536 at a time"),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "any number at a time"),
    ],
)  # fmt: skip
def test_open_files(said, monkeypatch, limits, text):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    assert said("open_files").endswith(text)


def test_caches_that_cannot_be_written_are_named_with_their_variable(said, monkeypatch, tmp_path):
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    assert said("caches") == f"writable, below {tmp_path / 'caches' / 'XDG_CACHE_HOME'}"
    (tmp_path / "file").write_text("")  # where no folder can be made, whoever asks
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "file" / "matplotlib"))
    assert said("caches").startswith(
        f"note: cannot write {tmp_path / 'file' / 'matplotlib'} (MPLCONFIGDIR); each process"
    )


def test_temporary_files(said, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, 2**29))
    assert said("temporary_files") == f"note: {tmp_path} with 0.5 GiB free; set TMPDIR to a folder with more"
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, 2**32))
    assert said("temporary_files") == f"{tmp_path} with 4.0 GiB free"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc")
    assert "another file system than this folder; results are written beside their place" in said("temporary_files")

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(SystemExit, match="set TMPDIR to a folder that can be"):
        machine_checks.temporary_files()


def test_disk(said, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, 2**30))
    assert said("free_disk").startswith(
        "note: 1.0 GiB free in this folder, less than 20; put runs and stores elsewhere"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, 2**36))
    assert said("free_disk").startswith(
        ("64.0 GiB free in this folder", "note: 64.0 GiB free in this folder, but only")
    )


def test_convolutions_that_differ_from_float64_are_broken(monkeypatch, capsys):
    assert machine_checks._difference("float32", (1, 4, 6, 5, 6), 2, "cpu") < 1e-5
    assert 1e-4 < machine_checks._difference("bfloat16", (1, 4, 6, 5, 6), 1, "cpu") < 5e-2
    machine_checks.convolutions()
    monkeypatch.setattr(machine_checks, "CHECK_S", 0.0)
    if not torch.cuda.is_available():
        assert capsys.readouterr().out == "no GPU, not compared\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(machine_checks, "_difference", lambda kind, shape, stride: 1e-4)
    machine_checks.convolutions()
    assert capsys.readouterr().out.startswith("12 compared with float64 on the CPU: float32 0.0001")
    monkeypatch.setattr(machine_checks, "_difference", lambda kind, *_: float("nan") if kind == "bfloat16" else 1e-4)
    with pytest.raises(SystemExit, match=r"wrong \(bfloat16 by nan, relative to float64\); update driver"):
        machine_checks.convolutions()


def test_a_note_is_no_fault_and_answers_keep_their_order(monkeypatch, capsys):
    programs = {
        "slow": "import time; time.sleep(0.3); print('note: little; take more')",
        "quick": "print('1.0')",
        "last": "raise SystemExit('wrong; mend it')",
    }
    monkeypatch.setattr(doctor, "CHECKS", programs)
    monkeypatch.setattr(doctor, "ALONE", ("quick",))
    from medpretrain3d import cli

    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"{'slow':<22}note    little; take more",
        f"{'quick':<22}ok      1.0",
        f"{'last':<22}BROKEN  wrong; mend it",
    ]


def test_where_importing_torch_ends_the_process_checks_go_on_one_by_one(monkeypatch, capsys, tmp_path):
    (tmp_path / "torch.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "CHECKS", {"torch": "import torch", "other": "print('2.0')"})
    from medpretrain3d import cli

    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'torch':<22}BROKEN  the process was ended by SIGABRT"
    assert lines[1] == f"{'other':<22}ok      2.0"


def test_a_signal_that_ends_the_checks_ends_doctor():
    programs = {"first": "import os, signal; os.kill(os.getppid(), signal.SIGTERM); import time; time.sleep(60)"}
    with pytest.raises(Interrupted) as ended:
        list(doctor._answers(programs))
    assert str(ended.value) == "SIGTERM"
