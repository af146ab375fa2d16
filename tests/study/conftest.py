"""A study of toy size: cubes of 24^3 in two folds, a network of some thousand parameters, two steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import split_store

from ..recipes.conftest import write_cubes

TRAINER = {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write_cubes(tmp_path_factory.mktemp("stores") / "cubes", {"train": 4, "val": 2, "test": 2})
    split_store(Store(store), 2)
    return store


@pytest.fixture
def write_study(tmp_path: Path, cubes: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write the document with some keys changed, beside recipes and a store of its own; returns its path."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cubes, tmp_path / "cubes")
    for stage in ("pretrain", "finetune"):
        data = {"store": "cubes", "patch": [16, 16, 16], "num_workers": 0}
        recipe: dict[str, Any] = {"base": "smoke", "data": data, "trainer": TRAINER, "run": {"wandb": "disabled"}}
        recipe["model"] = {"optim": {"warmup_steps": 0}}  # a share of two steps is one
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))

    def write(**changes: Any) -> Path:
        document = {
            "name": "toy",
            "data": {"cubes": "finetune.yaml"},
            "arms": {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}},
            "labels": [1, "all"],
            "seeds": 2,
            "folds": "all",
            "hypotheses": ["mae > scratch"],
            **changes,
        }
        path = tmp_path / "study.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in document.items() if value != "drop"}, sort_keys=False)
        )
        return path

    return write
