"""A cluster: the one that `SLURM_CONF` leads to, be it `own_slurm`'s or a real one."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..recipes.conftest import ROOT, SPLITS, TINY_FINETUNE, TINY_PRETRAIN, write_cubes
from .jobs import Job, ask
from .own_slurm import NO_CLUSTER

FILES = ROOT / "configs" / "slurm"
TINY = {"pretrain": TINY_PRETRAIN, "finetune": TINY_FINETUNE}
NO_GPU = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=100M")
TWO_RANKS = ("--ntasks-per-node=2", *NO_GPU)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs a cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session", autouse=True)
def slurm() -> None:
    """Skip where there is no cluster, with the reason."""
    if NO_CLUSTER in os.environ:
        pytest.skip(f"no SLURM: {os.environ[NO_CLUSTER]}")
    if not shutil.which("sbatch") or "SLURM_CONF" not in os.environ:
        pytest.skip("no SLURM: make test-cluster starts one")


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 volumes of 24^3 with one bright cube each."""
    return write_cubes(tmp_path_factory.mktemp("stores") / "cubes", SPLITS)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of jobs: `medpretrain3d` is this checkout's, and pauses where it is told to."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "medpretrain3d"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.cluster.paused "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return {**os.environ, **path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def submit(tmp_path: Path, programs: dict[str, str]) -> Iterator[Callable[..., Job]]:
    """Submits a file of `configs/slurm`, or a command, with options of sbatch and further words."""
    jobs = []

    def submit(file: str, options: tuple[str, ...], *words: str, folder: Path | None = None, **variables: str) -> Job:
        folder = folder or tmp_path / f"job{len(jobs)}"
        folder.mkdir(exist_ok=True)
        is_file = file.endswith(".sbatch")
        program = (
            [str(FILES / file), *words] if is_file else ["--output=%x_%j.log", f"--wrap={file} {shlex.join(words)}"]
        )
        command = ["sbatch", "--parsable", *options, *program]
        number = ask(*command, cwd=folder, environment={**programs, **variables}).strip()
        jobs.append(Job(number, folder))
        return jobs[-1]

    yield submit
    for job in jobs:
        ask("scancel", "--quiet", job.id)


@pytest.fixture
def train(submit: Callable[..., Job], cubes: Path, tmp_path: Path) -> Callable[..., Job]:
    """Submits a run of toy size of two processes; returns its job, whose `run` is the run's folder."""

    def train(
        stage: str,
        name: str,
        *words: str,
        options: tuple[str, ...] = TWO_RANKS,
        file: str = "one_node.sbatch",
        **more: str,
    ) -> Job:
        tiny = [str(ROOT / word) if word.startswith("configs/") else word for word in TINY[stage]]
        place = ["--data.store", str(cubes), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        size = [
            "--data.batch_size",
            "1",
            "--trainer.accelerator",
            "cpu",
            "--trainer.max_steps",
            "9",
            "--trainer.val_check_interval",
            "3",
        ]
        return submit(file, options, stage, *tiny, *place, *size, *words, **more)

    return train
