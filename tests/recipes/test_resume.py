"""A run that was cut at any moment ends with the bytes of one that was not, in both stages."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import TINY_FINETUNE, TINY_PRETRAIN
from .sittings import POINTS, sit

SIGNALS = (9, 15)
STEPS = 9  # with a validation and a checkpoint every 3 of them
LONG = ["--trainer.max_steps", str(STEPS)]
AVERAGED = json.dumps([{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}])
PRIMUS = {
    "class_path": "medpretrain3d.backbones.Primus",
    "init_args": {"preset": "XXS", "position_grid": [2, 2, 2], "drop_path": 0.5},
}
BATCH_NORM = {"class_path": "medpretrain3d.backbones.ResNet3D", "init_args": {"depth": 18, "width": 4}}
VIEWS = ["--data.views", "medpretrain3d.loading.views.TwoViews"]


def objective(name: str, **init_args: Any) -> list[str]:
    return ["--model.objective", json.dumps({"class_path": f"medpretrain3d.objectives.{name}", "init_args": init_args})]


PRETRAINING = {
    "accumulated": ["--trainer.accumulate_grad_batches", "2"],
    "teacher, drop path, averaged": [
        *objective("ConsistentViews", backbone=PRIMUS, projector_channels=[32, 16]),
        *VIEWS,
        *("--trainer.callbacks", AVERAGED, "--trainer.accumulate_grad_batches", "2"),
    ],
    "distilled, batch norm": [
        *objective("DINO", backbone=BATCH_NORM, num_prototypes=16, head_channels=[32, 16]),
        *VIEWS,
        *("--data.patch", "[32,32,32]"),
    ],
}
FINETUNING = {
    "averaged": [],
    "accumulated, not averaged": ["--trainer.accumulate_grad_batches", "3", "--trainer.callbacks", "[]"],
}


def arguments(stage: str, store: Path, root: Path, name: str, variant: list[str]) -> list[str]:
    tiny = TINY_PRETRAIN if stage == "pretrain" else TINY_FINETUNE
    place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", name]
    return [*tiny, *place, *LONG, *variant]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run is made for: weights, curves, detections."""
    kinds = (
        "encoder/*.safetensors",
        "bundle/*.safetensors",
        "test/*.*",
        "test/pictures/*",
        "validation/*",
        "previews/*",
    )
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in folder.glob(kind)
    }
    with (folder / "metrics.csv").open(newline="") as file:
        found["metrics.csv"] = [
            {name: cell for name, cell in row.items() if not name.startswith("perf/")} for row in csv.DictReader(file)
        ]
    return found


def check(
    stage: str,
    store: Path,
    folder: Path,
    variant: list[str],
    cuts: Sequence[Mapping[str, Any]],
    num_processes: int = 1,
) -> None:
    """Run undisturbed, and once more with cuts; both end alike, and no sitting that was cut counts as a success."""
    folder.mkdir(exist_ok=True)
    whole, cut = (arguments(stage, store, folder, name, variant) for name in ("whole", "cut"))
    same = {"stage": stage, "num_processes": num_processes}
    sittings = [{**same, "arguments": cut, "cut": one} for one in cuts]
    codes = sit([{**same, "arguments": whole}, *sittings, {**same, "arguments": cut}], folder)
    assert codes[0] == codes[-1] == [0] * num_processes, codes
    for one, ended in zip(cuts, codes[1:-1], strict=True):
        expected = -9 if one["signal"] == 9 else 128 + one["signal"]
        assert ended == [expected] * num_processes, (one, ended)
    undisturbed, continued = (outcome(folder / "g" / name) for name in ("whole", "cut"))
    assert len(undisturbed["metrics.csv"]) >= STEPS
    assert continued["metrics.csv"] == undisturbed["metrics.csv"]
    assert {name for name in undisturbed if continued.get(name) != undisturbed[name]} == set()
    left = sorted(path.name for path in (folder / "g" / "cut" / "checkpoints").iterdir())
    assert len(left) == 3, left
    assert (left[0], left[-1]) == ("last.ckpt", f"step_{STEPS:07d}.ckpt")


CHOSEN = [
    {"point": "validation", "step": 3, "signal": 9},  # the validation of the checkpoint's step is made up
    {"point": "optimizer", "step": 4, "signal": 9},
    {"point": "forward", "step": 5, "signal": SIGNALS[-1]},
    {"point": "validated", "step": STEPS, "signal": 9},  # also that of the last one
]
AT_EACH_POINT = [
    {"point": "forward", "step": 1, "signal": 15},
    {"point": "checkpoint", "step": 2, "signal": 9},
    {"point": "optimizer", "step": 3, "signal": 15},
    {"point": "validated", "step": 4, "signal": 9},
    {"point": "validation", "step": 6, "signal": 15},
    {"point": "logged", "step": 6, "signal": 9},
]


def random_cuts(seed: int, count: int) -> list[dict[str, Any]]:
    """Moments of a run in their order, each in a later or the same step."""
    draw = random.Random(seed)
    steps = sorted(draw.randrange(STEPS) for _ in range(count))
    moments = zip(draw.choices(POINTS, k=count), steps, strict=True)
    return [{"point": point, "step": step, "signal": draw.choice(SIGNALS)} for point, step in moments]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "name"), [*(("pretrain", name) for name in PRETRAINING), *(("finetune", name) for name in FINETUNING)]
)
def test_a_run_that_was_cut_ends_with_the_bytes_of_one_that_was_not(cube_store, tmp_path, stage, name):
    variants = PRETRAINING if stage == "pretrain" else FINETUNING
    cuts = CHOSEN if "averaged" in name.split(", ") else random_cuts(seed=list(variants).index(name), count=4)
    check(stage, cube_store, tmp_path, variants[name], cuts)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_so_does_one_of_two_processes(cube_store, tmp_path, stage):
    variants = PRETRAINING if stage == "pretrain" else FINETUNING
    on_two = next(variant for name, variant in variants.items() if name.startswith("accumulated"))
    assert {cut["point"] for cut in AT_EACH_POINT} == set(POINTS)
    check(stage, cube_store, tmp_path, [*on_two, "--data.batch_size", "1"], AT_EACH_POINT, num_processes=2)


@pytest.mark.slow
def test_a_kill_between_two_checkpoints_of_a_recipe(cube_store, tmp_path):
    recipe = [
        *("--config", "configs/pretrain/openkbp.yaml", "--data.store", str(cube_store), "--run.root", str(tmp_path)),
        *("--model.objective.init_args.backbone.init_args.preset", "XXS", "--model.optim.warmup_steps", "4"),
        *("--data.patch", "[32,32,32]", "--data.num_val_cases", "2", "--data.num_workers", "0"),
        *("--trainer.max_steps", "16", "--trainer.val_check_interval", "4", "--trainer.log_every_n_steps", "1"),
        *("--run.wandb", "disabled", "--run.name"),
    ]
    cut = {"point": "forward", "step": 6, "signal": 9}
    plan = [
        {"arguments": [*recipe, "whole"]},
        {"arguments": [*recipe, "cut"], "cut": cut},
        {"arguments": [*recipe, "cut"]},
    ]
    assert sit([{"stage": "pretrain", **one} for one in plan], tmp_path) == [[0], [-9], [0]]
    undisturbed, continued = (outcome(tmp_path / "openkbp" / name) for name in ("whole", "cut"))
    assert [row["train/loss"] != "" for row in continued["metrics.csv"]] == [True] * 16
    assert [row["step"] for row in continued["metrics.csv"] if row["val/loss"]] == ["3", "7", "11", "15"]
    assert continued == undisturbed
