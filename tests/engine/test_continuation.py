from __future__ import annotations

import copy
from typing import Any

import pytest

from medpretrain3d.engine.continuation import differences, global_batch

EMA = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.99}}
BAR = {"class_path": "lightning.pytorch.callbacks.RichProgressBar", "init_args": {}}
CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "run": {"root": "runs", "wandb": "auto", "share_machine": False},
    "model": {"optim": {"lr": 0.01, "betas": [0.9, 0.98]}, "init_from": None},
    "data": {"store": "store", "batch_size": 4, "patch": [32, 32, 32], "num_workers": 1, "augment_on": "workers"},
    "trainer": {
        "max_steps": 10,
        "devices": "auto",
        "num_nodes": 1,
        "accumulate_grad_batches": 1,
        "strategy": "auto",
        "accelerator": "cpu",
        "precision": None,
        "gradient_clip_val": None,
        "val_check_interval": 5,
        "log_every_n_steps": 10,
        "callbacks": [EMA],
        "profiler": None,
    },
}


def changed(**values):
    config = copy.deepcopy(CONFIG)
    for key, value in values.items():
        *parents, name = key.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        place[name] = value
    return config


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        {"data__num_workers": 7},
        {"run__root": "/elsewhere", "run__wandb": "disabled", "run__share_machine": True},
        {"trainer__log_every_n_steps": 1, "trainer__profiler": "simple", "trainer__val_check_interval": 2},
        {"trainer__devices": 2, "data__batch_size": 2},
        {"trainer__devices": "0,1", "data__batch_size": 2, "trainer__strategy": "ddp"},
        {"trainer__devices": [0, 1], "trainer__num_nodes": 2, "data__batch_size": 1},
        {"trainer__accumulate_grad_batches": 4, "data__batch_size": 1},
        {"trainer__strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"timeout": 9}}},
        {"trainer__callbacks": [BAR, EMA]},
        {"trainer__max_steps": 20},
        {"data__patch": [32, 32, 32], "model__optim__betas": [0.9, 0.98]},
    ],
)
def test_what_cannot_change_a_result_may_change(harmless):
    assert differences(CONFIG, changed(**harmless)) == []
    assert differences(changed(**harmless), CONFIG) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed_everything": 1}, ["seed_everything 0 -> 1"]),
        ({"model__optim__lr": 0.1}, ["model.optim.lr 0.01 -> 0.1"]),
        ({"data__patch": [32, 32, 16]}, ["data.patch [32, 32, 32] -> [32, 32, 16]"]),
        ({"trainer__precision": "bf16-mixed"}, ["trainer.precision absent -> bf16-mixed"]),
        ({"trainer__gradient_clip_val": 1.0}, ["trainer.gradient_clip_val absent -> 1.0"]),
        ({"data__batch_size": 8}, ["data.batch_size 4 -> 8"]),
        (
            {"data__batch_size": 8, "trainer__devices": 2},
            ["data.batch_size 4 -> 8", "trainer.devices auto -> 2"],
        ),
        ({"trainer__strategy": "deepspeed"}, ["trainer.strategy auto -> deepspeed"]),
        (
            {"trainer__callbacks": []},
            [
                "trainer.callbacks.0.class_path lightning.pytorch.callbacks.EMAWeightAveraging -> absent",
                "trainer.callbacks.0.init_args.decay 0.99 -> absent",
            ],
        ),
        ({"data__augment_on": "device"}, ["data.augment_on workers -> device"]),
    ],
)
def test_what_can_is_named_with_both_values(change, told):
    assert differences(CONFIG, changed(**change)) == told


STOPPING = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}
KEEPING = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/loss"}}


@pytest.mark.parametrize(
    ("decided", "is_free"),
    [
        ({"trainer__callbacks": [KEEPING, EMA]}, True),  # writes files and changes nothing
        ({"model__weights": "last"}, True),
        ({"model__weights": "best"}, False),
        ({"trainer__callbacks": [EMA, STOPPING]}, False),
        ({"trainer__callbacks": STOPPING}, False),
    ],
)
def test_when_a_run_validates_is_free_unless_that_decides_its_weights(decided, is_free):
    then = {"trainer__val_check_interval": 1, "trainer__check_val_every_n_epoch": 2}
    told = ["trainer.check_val_every_n_epoch absent -> 2", "trainer.val_check_interval 5 -> 1"]
    assert differences(changed(**decided), changed(**decided, **then)) == ([] if is_free else told)
    assert differences(changed(**decided), changed(**decided, trainer__num_sanity_val_steps=2)) == []


def test_paths_are_compared_by_what_they_lead_to(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    for same in ("store", "./store", "other/../store", str(tmp_path / "store"), "link", ["store"]):
        assert differences(CONFIG, changed(data__store=same)) == []
    assert differences(CONFIG, changed(data__store="other")) == ["data.store store -> other"]


def test_a_global_batch_is_that_of_all_processes():
    assert global_batch(CONFIG) == 4
    devices = {"trainer__devices": 3, "trainer__num_nodes": 2, "trainer__accumulate_grad_batches": 5}
    assert global_batch(changed(**devices)) == 4 * 3 * 2 * 5
