"""Stores staged to a disk of the node."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.store import staging
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.staging import staged
from medpretrain3d.store.store import Store
from tests.store.byte_server import serving


def times(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["packed", "folders"])
def test_a_copy_is_the_store_and_is_made_once(uploaded, tmp_path, name, capsys):
    copy = staged(uploaded / name, tmp_path / "nvme")
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"staging {uploaded / name} to {copy}: ")
    assert told[-1].startswith(f"staged {uploaded / name}: ")
    assert copy.name == name
    for case_id in "ab":
        Store(copy).case(case_id).verify()
    before = times(copy)
    assert staged(uploaded / name, tmp_path / "nvme") == copy
    assert (times(copy), capsys.readouterr().out) == (before, "")
    assert Corpus([uploaded / name], str(tmp_path / "nvme")).stores[0].path == copy


def test_what_is_missing_or_half_is_copied_again_and_nothing_else(uploaded, tmp_path, capsys):
    copy = staged(uploaded / "folders", tmp_path)
    (copy / "store.json").unlink()  # comes last
    (copy / "cases/b/image.b2nd").write_bytes(b"half")
    (copy / "cases/a/.mask.b2nd.0123abcd.unfinished").write_bytes(b"killed")
    (copy / "cases/a/mask.b2nd").unlink()
    before = times(copy)
    capsys.readouterr()
    staged(uploaded / "folders", tmp_path)
    assert "3 of 8 files" in capsys.readouterr().out
    after = times(copy)
    changed = {str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {
        "store.json",
        "cases/b/image.b2nd",
        "cases/a/mask.b2nd",
        "cases/a/.mask.b2nd.0123abcd.unfinished",
    }
    for case_id in "ab":
        Store(copy).case(case_id).verify()


def test_other_splits_are_another_copy(uploaded, tmp_path, capsys):
    shutil.copytree(uploaded / "packed", tmp_path / "store")
    first = staged(tmp_path / "store", tmp_path / "nvme")
    (tmp_path / "store/splits.json").write_text('{"train": ["b"], "val": ["a"]}')
    capsys.readouterr()
    second = staged(tmp_path / "store", tmp_path / "nvme")
    assert first != second
    assert "2 of 3 files" in capsys.readouterr().out  # the container is linked
    assert (first / "containers/1-of-1-00000.tar").samefile(second / "containers/1-of-1-00000.tar")
    assert Store(first).splits["val"] == ("b",)
    assert Store(second).splits["val"] == ("a",)


def test_a_disk_that_is_too_small_is_refused_in_one_line(uploaded, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage(10**6, 0, 10**6))
    with pytest.raises(UserError, match=r"^data.stage_to: .* needs [\d,]+ bytes more, its disk has 1,000,000 free"):
        staged(uploaded / "packed", tmp_path)


def test_a_copy_that_differs_is_an_error(uploaded, tmp_path, monkeypatch):
    real = Store.open_file

    def other(self, name):
        file = real(self, name)
        return Flipping(file) if name.endswith(".tar") else file

    class Flipping:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size):
            return self.file.read(size)[:-1]

    monkeypatch.setattr(Store, "open_file", other)
    with pytest.raises(UserError, match="is not what was read from"):
        staged(uploaded / "packed", tmp_path)
    assert not list(tmp_path.rglob("*.tar"))


HOLD = """
import fcntl, os, sys
number = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(number, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_others_wait_until_the_one_that_copies_ends_or_is_killed(uploaded, tmp_path, monkeypatch, capsys):
    copy = staged(uploaded / "packed", tmp_path)
    shutil.rmtree(copy)
    (lock,) = tmp_path.glob(".*.lock")
    holder = [sys.executable, "-c", HOLD, str(lock)]
    capsys.readouterr()
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"

        def kill(_):
            assert not copy.exists()
            first.kill()
            first.wait()

        monkeypatch.setattr(staging.time, "sleep", kill)
        assert staged(uploaded / "packed", tmp_path) == copy
    assert capsys.readouterr().out.startswith(f"{copy}: another process stages it; waiting\nstaging ")
    Store(copy).case("a").verify()


def test_a_store_behind_a_url_is_staged_whole(uploaded, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDPRETRAIN3D_CACHE", str(tmp_path / "cache"))
    with serving(uploaded) as server:
        copy = staged(f"{server.url}/packed", tmp_path / "nvme")
    np.testing.assert_array_equal(Store(copy).case("b").read_image(), Store(uploaded / "packed").case("b").read_image())
    assert not list((tmp_path / "cache").rglob("*.tar"))
