"""Stores behind a URL: what is read is fetched, once, and kept."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.store import mirror
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.mirror import mirrors_folder
from medpretrain3d.store.store import Store
from tests.store.byte_server import serving


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDPRETRAIN3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["packed", "folders"])
def test_a_crop_fetches_its_blocks_once(uploaded, name):
    local = Store(uploaded / name)
    ending = ".tar" if name == "packed" else "image.b2nd"
    with serving(uploaded) as server:
        store = Store(Path(f"{server.url}/{name}"))  # pathlib makes one slash of two
        assert (store.fingerprint, store.splits, store.place) == (
            local.fingerprint,
            local.splits,
            f"{server.url}/{name}",
        )
        case = store.case("a")
        window = (-1, 70, 3), (20, 20, 20)
        np.testing.assert_array_equal(case.read_image(*window), local.case("a").read_image(*window))
        fetched, stored = server.bytes_of(ending), local.case("a").files.image.size()
        assert 0 < fetched < 0.8 * stored
        before = len(server.given)
        np.testing.assert_array_equal(Store(store.place).case("a").read_image(*window), case.read_image(*window))
        assert [path for path, _ in server.given[before:]] == [f"/{name}/store.json", f"/{name}/splits.json"]
        for case_id in "ab":
            store.case(case_id).verify()
        everything = sum(path.stat().st_size for path in (uploaded / name).rglob("*") if path.is_file())
        assert server.bytes_of(ending) < everything + 2**18
    store.case("b").verify()  # all is here


def test_a_process_that_was_forked_or_started_reads_too(uploaded):
    with serving(uploaded) as server:
        case = Store(f"{server.url}/packed").case("a")
        case.read_image((0, 0, 0), (4, 4, 4))
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(1) as pool:
                found = pool.apply(case.read_image, ((40, 40, 40), (30, 30, 30)))
            np.testing.assert_array_equal(found, Store(uploaded / "packed").case("a").read_image((40,) * 3, (30,) * 3))


def test_errors_pass_or_are_one_line(uploaded, tmp_path, capsys):
    with serving(uploaded) as server:
        server.failures = 2
        store = Store(f"{server.url}/packed")
        server.failures = 2
        store.case("a").read_image((0, 0, 0), (4, 4, 4))
        server.failures = 3
        with pytest.raises(UserError, match=r"http.*store.json: cannot be read, 3 times \(503"):
            Store(f"{server.url}/packed")
        with pytest.raises(UserError, match=r"has no store\.json, so it is no store"):
            Store(f"{server.url}/elsewhere")
        server.gives_ranges = False
        with pytest.raises(UserError, match="its server gives no byte ranges"):
            store.case("b").read_image()
        assert main(["targets", f"{server.url}/elsewhere", "-o", str(tmp_path / "t.json")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="cannot be read, 3 times"):
        Store(f"{server.url}/packed")
    with pytest.raises(UserError, match=r"nothing://x.*: cannot be read"):
        Store("nothing://x/store")


def test_a_store_that_changed_gets_another_mirror(uploaded, tmp_path):
    shutil.copytree(uploaded / "packed", tmp_path / "www/packed")
    with serving(tmp_path / "www") as server:
        before = Store(f"{server.url}/packed")
        shutil.rmtree(tmp_path / "www/packed")
        shutil.copytree(uploaded / "folders", tmp_path / "www/packed")
        after = Store(f"{server.url}/packed")
        after.case("a").verify()
    assert before.path != after.path
    assert after.path.is_relative_to(mirrors_folder())
    assert Corpus([before.path]).name == "packed"


def test_commands_take_a_url(uploaded, tmp_path, capsys):
    with serving(uploaded) as server:
        url = f"{server.url}/packed"
        assert main(["targets", url, "--split", "val", "-o", str(tmp_path / "remote.json")]) == 0
        assert main(["plan", url, "--memory", "4", "-o", str(tmp_path / "plan.json")]) == 0
        assert main(["split", url]) == 2
    capsys.readouterr()
    assert main(["targets", str(uploaded / "packed"), "--split", "val", "-o", str(tmp_path / "local.json")]) == 0
    assert (tmp_path / "remote.json").read_bytes() == (tmp_path / "local.json").read_bytes()
