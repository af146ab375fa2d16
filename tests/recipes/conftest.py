"""A store of bright cubes, small enough to train on in a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import write_index

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"train": 4, "val": 2, "test": 2}

TINY_PRETRAIN = [
    *("--config", "configs/pretrain/smoke.yaml"),
    *("--data.patch", "[16,16,16]", "--data.num_workers", "0", "--run.wandb", "disabled"),
    *("--trainer.val_check_interval", "3"),  # twice in the six steps of the recipe
]
TINY_FINETUNE = [
    *("--config", "configs/finetune/smoke.yaml"),
    *("--data.patch", "[16,16,16]", "--data.num_workers", "0", "--run.wandb", "disabled"),
    *("--trainer.val_check_interval", "3"),  # twice in the six steps of the recipe
]
TWO_PROCESSES = [
    *("--data.batch_size", "1", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"),
]


@pytest.fixture(scope="session")
def cube_store(tmp_path_factory) -> Path:
    """8 volumes of 24^3 with one bright cube each."""
    return write_cubes(tmp_path_factory.mktemp("stores") / "cubes", SPLITS)


@pytest.fixture(scope="session")
def mr_store(tmp_path_factory) -> Path:
    """The same number of volumes whose values have no unit: three times as large, and from 3000 on."""
    store = tmp_path_factory.mktemp("stores") / "mr_cubes"
    rows, splits = [], {}
    for split, count in SPLITS.items():
        splits[split] = [f"mr_{split}_{number}" for number in range(count)]
        for case_id in splits[split]:
            cube = _cube(case_id)
            image = np.clip(3 * (cube.image + 1024), 0, 30000).astype(np.int16) + np.int16(3000)
            rows.append(write_case(store, replace(cube, image=image, rescale=((1.0, 0.0),))))
    write_index(store, ["cube"], (2.0, 2.0, 2.0), rows, splits, ["MR"])
    return store


def write_cubes(store: Path, splits: dict[str, int], patients: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write a store with so many volumes in each split, of some of which the patient is known by the case's id."""
    ids = {split: [f"{split}_{number}" for number in range(count)] for split, count in splits.items()}
    cubes = [replace(_cube(case_id), patient=patients.get(case_id)) for split in ids.values() for case_id in split]
    rows = [write_case(store, cube) for cube in cubes]
    write_index(store, ["cube"], (2.0, 2.0, 2.0), rows, ids)
    return store


def _cube(case_id: str) -> CaseData:
    random = np.random.default_rng(sum(case_id.encode()))
    image = random.normal(-800, 30, (1, 24, 24, 24)).astype(np.int16)
    start = random.integers(2, 14, size=3)
    region = tuple(slice(int(s), int(s) + 8) for s in start)
    image[(0, *region)] += 900
    instances = np.zeros((24, 24, 24), np.uint16)
    instances[region] = 1
    affine = np.array([[0, 0, 2.0, 5], [0, 2.0, 0, 6], [2.0, 0, 0, 7], [0, 0, 0, 1]])
    grid = Grid((24, 24, 24), affine)
    box = tuple(float(edge) for edge in (*start, *(start + 8)))
    return CaseData(case_id, image, grid, grid, f"{case_id}.nii.gz", [Instance(1, 0, box)], instances)


def run_program(stage: str, *arguments: str, expect: int = 0, file: Path | None = None) -> str:
    """Run `python -m <stage> fit ...` as a user does, or a file with the same arguments; returns what it printed."""
    command = [sys.executable, *(["-m", stage] if file is None else [str(file)]), "fit", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    printed = done.stdout + done.stderr
    assert done.returncode == expect, printed[-3000:]
    return printed
