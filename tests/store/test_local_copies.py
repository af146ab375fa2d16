"""Copies that are removed when room is needed: the one that was used longest ago first, and none that is in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.store import local_copies, staging
from medpretrain3d.store.local_copies import evict, evict_to
from medpretrain3d.store.staging import staged
from medpretrain3d.store.store import Store
from tests.store.byte_server import serving

ROOT = Path(__file__).resolve().parents[2]
READER = """
import sys
from medpretrain3d.store.local_copies import use
from pathlib import Path
use(Path(sys.argv[1]))
print("reading", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def none_held(monkeypatch):
    """What this process would hold until its end is let go at the end of a test."""
    held: dict[Path, int] = {}
    monkeypatch.setattr(local_copies, "_held", held)
    yield held
    for number in held.values():
        os.close(number)


def let_go(held):
    for number in held.values():
        os.close(number)
    held.clear()


def copy_of(root: Path, digit: str, num_bytes: int, used_s: float) -> Path:
    folder = root / (digit * 16)
    (folder / "store").mkdir(parents=True)
    (folder / "store" / "data").write_bytes(b"x" * num_bytes)
    lock = root / f".{folder.name}.in_use"
    lock.touch()
    os.utime(lock, (used_s, used_s))
    return folder


def test_the_oldest_go_first_and_only_as_many_as_needed(tmp_path):
    newest, oldest, middle = (copy_of(tmp_path, digit, 8192, used) for digit, used in (("a", 30), ("b", 10), ("c", 20)))
    (tmp_path / "results").mkdir()  # not ours
    assert evict(tmp_path, 0) == []
    assert [copy.folder for copy in evict(tmp_path, 10_000)] == [oldest, middle]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{newest.name}.in_use", newest.name, "results"]
    assert [copy.folder for copy in evict_to(tmp_path, 8192)] == []
    assert [copy.folder for copy in evict_to(tmp_path, 8191)] == [newest]


def test_what_another_process_reads_stays_until_it_is_killed(tmp_path, capsys):
    read, other = copy_of(tmp_path, "a", 4096, 10), copy_of(tmp_path, "b", 4096, 20)
    command, environment = [sys.executable, "-c", READER, str(read)], {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        assert main(["cache", str(tmp_path), "--limit-gb", "0"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith(f"removed {other / 'store'}: 0.00 GB, last used ")
        assert printed[1].startswith(f"{read / 'store'}: ")
        assert printed[1].endswith(", in use")
        assert printed[2] == f"{tmp_path}: 1 copies, 0.00 GB"
        reader.kill()
    assert main(["cache", str(tmp_path), "--limit-gb", "0"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_removed_while_it_is_opened_is_made_anew(uploaded, tmp_path, monkeypatch, none_held):
    first = staged(uploaded / "packed", tmp_path)
    let_go(none_held)
    flock, taken = local_copies.fcntl.flock, []

    def late(number, operation):
        if operation == local_copies.fcntl.LOCK_SH and not taken:
            taken.append(number)
            assert evict_to(tmp_path, 0)  # between opening the lock and taking it
        return flock(number, operation)

    monkeypatch.setattr(local_copies.fcntl, "flock", late)
    assert staged(uploaded / "packed", tmp_path) == first
    Store(first).case("a").verify()
    assert evict_to(tmp_path, 0) == []


def test_staging_takes_the_room_of_copies_that_nothing_reads(uploaded, tmp_path, monkeypatch, capsys, none_held):
    usage = namedtuple("usage", "total used free")
    old = staged(uploaded / "packed", tmp_path)
    held = staged(uploaded / "folders", tmp_path)
    capsys.readouterr()

    def disk_usage(_):
        there = sum(copy.num_bytes for copy in local_copies.local_copies(tmp_path))
        return usage(0, 0, 2**26 + 5_000_000 - there)

    monkeypatch.setattr(staging.shutil, "disk_usage", disk_usage)
    shutil.copytree(uploaded / "packed", tmp_path / "www" / "third")
    (tmp_path / "www" / "third" / "store.json").write_bytes((uploaded / "packed" / "store.json").read_bytes() + b" ")
    with pytest.raises(UserError, match=r"data\.stage_to: .* needs .* bytes more"):
        staged(tmp_path / "www" / "third", tmp_path)
    assert old.is_dir()
    os.close(none_held.pop(old.parent))
    new = staged(tmp_path / "www" / "third", tmp_path)
    assert f"{old}: an older copy that nothing reads is removed" in capsys.readouterr().out
    assert (old.exists(), held.exists(), new.exists()) == (False, True, True)


def test_mirrors_have_a_limit_that_the_environment_sets(uploaded, tmp_path, monkeypatch, none_held):
    monkeypatch.setenv("MEDPRETRAIN3D_CACHE", str(tmp_path))
    with serving(uploaded) as server:
        first = Store(f"{server.url}/packed")
        first.case("a").verify()
        let_go(none_held)
        monkeypatch.setenv("MEDPRETRAIN3D_CACHE_GB", "0")
        second = Store(f"{server.url}/folders")
        assert (first.path.exists(), second.path.exists()) == (False, True)
        assert Store(f"{server.url}/folders").path == second.path
        monkeypatch.setenv("MEDPRETRAIN3D_CACHE_GB", "much")
        with pytest.raises(UserError, match="MEDPRETRAIN3D_CACHE_GB 'much': wanted a number of GB"):
            Store(f"{server.url}/packed")
