"""Whole runs of the first stage on a synthetic store: waiting for data on one device, and samples per second on all."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.recipes import Recipe
from benchmarks.gpu.session import Row, Session, Skipped
from medpretrain3d.store.case import CaseData, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import write_index

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 40
"""Averages of ten steps are logged; those of the last ten count."""


def rows(session: Session) -> Iterator[Row]:
    recipe = Recipe.read("pretrain/smoke" if session.is_toy else "pretrain/mae_resenc_l")
    num_gpus = torch.cuda.device_count() if session.is_gpu else 0
    alone: list[float] = []
    if not session.is_toy:  # which two processes show as well
        yield session.row("stages", recipe.work, "1 process", partial(_run, session, recipe, 1, alone))
    # A CPU shows that it works, not how fast.
    num_processes = num_gpus if session.is_gpu else 2
    name = f"DDP, {num_processes} processes by torchrun"
    yield session.row("stages", recipe.work, name, partial(_run, session, recipe, num_processes, alone))


def _run(session: Session, recipe: Recipe, num_processes: int, alone: list[float]) -> tuple[str, str]:
    if session.is_gpu and alone and num_processes < 2:
        raise Skipped("one GPU only")
    store = session.folder / "store"
    if not store.is_dir():
        write_store(store, recipe.patch)
    folder = session.folder / f"runs_{num_processes}"
    num_steps = 10 if session.is_toy else NUM_STEPS
    program = ["-m", "pretrain", "fit", "--config", f"configs/{recipe.name}.yaml"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    options = {
        "data.store": store,
        "data.num_val_cases": 1,
        "run.root": folder,
        "run.wandb": "disabled",
        "model.optim.warmup_steps": 0,
        "trainer.max_steps": num_steps,
        "trainer.val_check_interval": num_steps,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "gpu" if session.is_gpu else "cpu",
        "trainer.devices": num_processes,
        **({"trainer.strategy": "ddp"} if num_processes > 1 else {}),
        **({"data.num_workers": 0} if session.is_toy else {}),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, *(launcher if num_processes > 1 else []), *program, *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, session.left_s())
        )
    except subprocess.TimeoutExpired:
        raise Skipped("the time is used up; more of it: --minutes") from None
    if done.returncode:
        message = next((line for line in done.stderr.splitlines()[::-1] if "rror" in line), done.stderr[-200:])
        if "out of memory" in message:
            raise Skipped("out of memory")
        raise RuntimeError(f"exit code {done.returncode}: {message}")
    (metrics,) = folder.rglob("metrics.csv")
    per_second, waited, memory = _last(metrics)
    alone.append(per_second)
    note = f"{per_second / alone[0]:.2f} times one process" if num_processes > 1 and len(alone) > 1 else ""
    return f"{per_second:.2f} samples/s, {waited:.1%} waiting for data, peak {memory:.1f} GiB", note


def write_store(folder: Path, patch: tuple[int, int, int], num_cases: int = 3) -> None:
    """Write smooth scans a quarter larger than the patch; noise would be slower to decompress than any CT."""
    shape = tuple(5 * edge // 4 for edge in patch)
    grid = Grid((shape[0], shape[1], shape[2]), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
    cases = []
    for number in range(num_cases):
        image = (1000 * np.cos((number + 2) * (d + h) * w) - 200).astype(np.int16)[None]
        name = f"case_{number}"
        cases.append(write_case(folder, CaseData(name, image, grid, grid, f"{name}.nii.gz", [], None)))
    write_index(folder, [], (1.0, 1.0, 1.0), cases, {"train": [f"case_{number}" for number in range(num_cases)]})


def _last(metrics: Path) -> tuple[float, float, float]:
    """Samples per second, share of waiting for data and peak memory of the last ten steps."""
    with metrics.open(newline="", encoding="utf-8") as file:
        logged = [row for row in csv.DictReader(file) if row.get("perf/samples_per_s")]
    last = logged[-1]
    return float(last["perf/samples_per_s"]), float(last["perf/data_wait_share"]), float(last["perf/peak_memory_gb"])
