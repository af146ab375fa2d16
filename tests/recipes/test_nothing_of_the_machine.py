"""What is meant for others names no folder, user or machine that it was made on: every byte is looked at."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER, HOST = "jane-roe-4711", "ward-pc-0815"
SEVERAL = """
import json, sys
from medpretrain3d.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["medpretrain3d", *words]
    if code := main():
        sys.exit(code)
"""
LOCAL = ("config.yaml", "log.txt", "checkpoints", "wandb")
"""Of a run's folder: what stays here, since a run goes on with the paths that it was started with."""


def inside(content: bytes) -> bytes:
    """The bytes, and what is packed in them."""
    parts = [content]
    if content[:2] == b"\x1f\x8b":
        parts.append(gzip.decompress(content))
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts += [archive.read(name) + name.encode() for name in archive.namelist()]
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place + 8 <= len(content):
            size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
            if kind in (b"zTXt", b"iTXt"):
                parts.append(_inflated(content[place + 8 : place + 8 + size]))
            place += 12 + size
    return b"\n".join(parts)


def _inflated(chunk: bytes) -> bytes:
    start = chunk.find(b"\x78")
    try:
        return zlib.decompressobj().decompress(chunk[start:]) if start >= 0 else chunk
    except zlib.error:
        return chunk


@pytest.mark.slow
def test_no_artifact_names_path_user_or_host(tmp_path):
    home = tmp_path / USER / "project"
    home.mkdir(parents=True)
    environment = {
        **os.environ,
        **{"USER": USER, "LOGNAME": USER, "USERNAME": USER, "HOSTNAME": HOST, "OMP_NUM_THREADS": "1"},
        **{"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "WANDB_MODE": "offline"},
    }

    def call(*words: str) -> None:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]

    def tools(*calls: tuple[str | Path, ...]) -> None:
        """Several commands in one process, which is quicker."""
        call("-c", SEVERAL, json.dumps([[str(word) for word in one] for one in calls]))

    def stage(name: str, run: str, *arguments: str | Path) -> Path:
        recipes = ("--config", f"configs/{name}/demo.yaml", "--config", f"configs/{name}/smoke.yaml")
        steps = (
            "--trainer.max_steps",
            "2",
            "--trainer.val_check_interval",
            "2",
            "--run.name",
            run,
            "--run.wandb",
            "offline",
        )
        place = ("--data.store", store, "--run.root", home / "runs")
        call("-m", name, "fit", *map(str, (*recipes, *steps, *place, *arguments)))
        return home / "runs/smoke" / run

    store = home / "store"
    tools(
        ("phantom", home / "raw", "--cases", "6", "--spacing-mm", "8"),
        ("prepare", home / "raw", store, "--spacing-mm", "8", "8", "8"),
        ("plan", store, "-o", home / "plan.json"),
    )
    first = stage("pretrain", "mae", "--data.num_workers", "0")
    second = stage("finetune", "from", "--data.num_workers", "0", "--model.init_from", first / "encoder")
    formats = ("json", "csv", "coco", "slicer", "nifti")
    found = ("--predictions", home / "out/predictions.json", "--targets", home / "out/targets.json")
    scores = ("-o", home / "out/metrics.json", "--csv", home / "out/cases.csv", "--plots", home / "plots")
    tools(
        ("export", first / "encoder", "-o", home / "exported"),
        ("export", first / "encoder", "-o", home / "nnssl", "--format", "nnssl"),
        ("export-detector", second / "bundle", "-o", home / "network", "--format", "torch"),
        ("predict", second / "bundle", home / "raw/imagesTs", "-o", home / "out", "--format", *formats),
        ("targets", store, "--split", "test", "-o", home / "out/targets.json"),
        ("evaluate", *found, *scores),
        ("report", home / "runs", "-o", home / "report.html", "--figures", home / "figures"),
    )

    names = [USER.encode(), HOST.encode(), str(home).encode(), base64.b64encode(USER.encode())[:12]]
    names += [name.encode() for name in (socket.gethostname(), str(ROOT)) if len(name) > 6]  # a short one is anywhere
    looked_at, leaks = set(), []
    for path in sorted(home.rglob("*")):
        local = path.relative_to(home).parts
        if not path.is_file() or (local[0] == "runs" and any(part in LOCAL for part in local)):
            continue
        looked_at.add(path.name)
        content = inside(path.read_bytes())
        leaks += [f"{path.relative_to(home)}: {name.decode()}" for name in names if name in content]
    assert leaks == []
    assert {"encoder.json", "bundle.json", "README.md", "checkpoint_final.pth", "run.json", "store.json", "case.json",
            "predictions.json", "predictions.csv", "report.html", "plan.json", "metrics.json",
            "sightings.safetensors"} <= looked_at  # fmt: skip
    sent = [path for path in home.rglob("run-*.wandb") if path.is_file()]
    assert sent
    assert [path.name for path in sent if any(name in path.read_bytes() for name in names)] == []
