"""One process in a place: a living one is named, a dead one is succeeded at once, one of another machine is watched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from medpretrain3d.atomic import lock, locked, locked_folder
from medpretrain3d.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from medpretrain3d.atomic import {kind}, finished_file
with {kind}(Path(sys.argv[1])), finished_file(Path(sys.argv[1]{below})) as unfinished:
    unfinished.write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(place, kind="locked_folder"):
    """Another process that holds the lock and is in the middle of writing a file."""
    code = HOLD.format(kind=kind, below=', "file.json"' if kind == "locked_folder" else "")
    process = subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def of_another_machine(path, seconds_ago=0.0):
    """Make a lock that of a process of another machine, renewed some time ago."""
    text = path.read_text()
    host = next(line for line in text.splitlines() if line.startswith("host="))
    path.write_text(text.replace(host, "host=elsewhere"))
    os.utime(path, (time.time() - seconds_ago,) * 2)


@pytest.mark.parametrize("kind", ["locked_folder", "locked"])
def test_a_second_process_is_refused_and_names_the_first_and_a_killed_one_is_succeeded(tmp_path, kind):
    place = tmp_path / "place"
    take = {"locked_folder": locked_folder, "locked": locked}[kind]
    with holder(place, kind) as first:
        with pytest.raises(UserError, match=f"process {first.pid} is at work here; wait for its end"), take(place):
            pass
        assert len(list(tmp_path.rglob("*.unfinished"))) == 1  # that of the living one stays
        first.send_signal(signal.SIGKILL)
        time.sleep(0.2)  # nobody waited for it yet: it is in the table of processes
        with take(place):
            assert list(tmp_path.rglob("*.unfinished")) == []
            assert len(list(tmp_path.rglob(".*lock"))) == 1
    assert [path for path in tmp_path.rglob("*") if path != place] == []


def test_a_lock_is_not_taken_twice_by_one_process_and_ends_with_an_error_too(tmp_path):
    with (
        locked_folder(tmp_path / "a"),
        pytest.raises(UserError, match="is at work here"),
        locked_folder(tmp_path / "a"),
    ):
        pass
    with pytest.raises(RuntimeError), locked_folder(tmp_path / "a"):
        raise RuntimeError
    with locked_folder(tmp_path / "a"), locked_folder(tmp_path / "a", ".other.lock"), locked(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_another_machine_is_refused_as_soon_as_it_renews_its_lock(tmp_path, monkeypatch):
    with holder(tmp_path / "a"):
        of_another_machine(tmp_path / "a" / ".lock", seconds_ago=3600)  # by whose clock?
        renew = iter(range(100))

        def renewed_ns(path):
            return next(renew) // 3

        monkeypatch.setattr(lock, "_renewed_ns", renewed_ns)
        with (
            pytest.raises(UserError, match="a process of another machine is at work here"),
            locked_folder(tmp_path / "a"),
        ):
            pass


def test_a_process_of_another_machine_that_does_not_renew_its_lock_is_dead(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "LEASE_S", 1.0)
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.3)
    with holder(tmp_path / "a"):
        path = tmp_path / "a" / ".lock"
        of_another_machine(path, seconds_ago=-3600)
        path.write_text(path.read_text().replace("duration=180.0", "duration=1.0"))
        started = time.monotonic()
        with locked_folder(tmp_path / "a"):
            assert time.monotonic() - started >= 1
    assert "locked from another machine; watching" in capsys.readouterr().out


def test_a_lock_that_a_power_loss_left_empty_is_succeeded(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "UNREADABLE_S", 0.6)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()
    with locked_folder(tmp_path / "a"):
        pass
    assert list((tmp_path / "a").iterdir()) == []


def test_forked_children_neither_hold_nor_release_a_lock(tmp_path):
    with locked_folder(tmp_path / "a"):
        child = os.fork()
        if child == 0:
            os._exit(0 if (tmp_path / "a" / ".lock").exists() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (tmp_path / "a" / ".lock").exists()


def test_a_stream_is_not_locked():
    with locked("/dev/null"):
        pass
    assert not os.path.exists("/dev/.null.lock")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_said_of_the_place_and_not_of_its_lock():
    with pytest.raises(UserError, match=r"^/proc/t\.json: cannot be written"), locked(Path("/proc/t.json")):
        pass
