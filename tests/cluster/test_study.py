"""A study whose jobs are submitted to a cluster; two are killed, and one has the notice of its end."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from .jobs import ENDED, Job, ask

TRAINER = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}
RESOURCES = {kind: {"cores": 1, "gpus": 0, "memory_gb": 0.5, "hours": 0.2} for kind in ("pretrain", "finetune")}
OPTIONS = (
    "--slurm-status-command squeue --slurm-init-seconds-before-status-checks 3 --slurm-no-account --latency-wait 30"
)


@pytest.fixture
def document(cubes: Path, tmp_path: Path) -> Path:
    """2 arms x 2 budgets x 2 seeds, of two steps each."""
    folder = tmp_path / "study"
    folder.mkdir()
    for stage in ("pretrain", "finetune"):
        data = {"store": str(cubes), "patch": [16, 16, 16], "num_workers": 0}
        recipe: dict[str, Any] = {"base": "smoke", "data": data, "trainer": TRAINER, "run": {"wandb": "disabled"}}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    arms = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}}
    design = {"data": {"cubes": "finetune.yaml"}, "arms": arms, "labels": [1, "all"], "seeds": 2}
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"name": "toy", **design, "resources": RESOURCES}, sort_keys=False)
    )
    return folder / "study.yaml"


def numbers(folder: Path) -> dict[str, Any]:
    """What its runs measured, by their folders, which are named by what decides them."""
    found = {}
    for path in sorted(folder.glob("runs/toy/*/run.json")):
        with (path.parent / "metrics.csv").open(newline="") as file:
            rows = [{name: cell for name, cell in row.items() if "perf/" not in name} for row in csv.DictReader(file)]
        tests = [test.read_bytes() for test in sorted((path.parent / "test").glob("*.json"))]
        found[path.parent.name] = (rows, tests)
    return found


def test_a_study_on_a_cluster_ends_with_the_numbers_of_a_sequential_one(submit, document, programs):
    study = submit("study.sbatch", (), "study.yaml", f"--snakemake={OPTIONS}", folder=document.parent, JOBS="4")
    struck: list[str] = []  # the first has the notice, and goes on; the others are killed, and submitted again
    deadline = time.monotonic() + 300
    while len(struck) < 3:
        assert study.state not in ENDED, study.log
        assert time.monotonic() < deadline
        for line in ask("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines():
            number, _, comment = line.partition(" ")
            record = re.search(r"(finetune-[0-9a-f]+)", comment)
            begun = list(document.parent.glob(f"runs/toy/jobs/{record[1]}.log")) if record else []
            if begun and number not in struck and len(struck) < 3:
                ask("scancel", "--signal=KILL" if struck else "--signal=USR1", number)
                struck.append(number)
        time.sleep(0.2)
    noticed = Job(struck[0], document.parent)
    noticed.wait_in_queue(1)
    assert noticed.end() == ("COMPLETED", 0)
    assert study.end(within_s=600) == ("COMPLETED", 0), study.log
    assert "toy: all 9 jobs done" in study.log
    sequential = document.parent.parent / "sequential"
    sequential.mkdir()
    for path in document.parent.glob("*.yaml"):
        (sequential / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "medpretrain3d.cli", "study", "run", "study.yaml", "--cores", "2"]
    done = subprocess.run(command, cwd=sequential, env=programs, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found, expected = numbers(document.parent), numbers(sequential)
    assert len(expected) == 9
    assert found == expected
