"""Weights that are dealt out over two processes end in the files of one."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from medpretrain3d.backbones import read_encoder
from medpretrain3d.errors import UserError
from pretrain import __main__ as program

from .conftest import TINY_FINETUNE, TINY_PRETRAIN, run_program
from .sittings import sit

PRIMUS = {
    "class_path": "medpretrain3d.backbones.Primus",
    "init_args": {"preset": "XXS", "position_grid": [2, 2, 2], "checkpointing": True},
}
MAE = {"class_path": "medpretrain3d.objectives.MAE", "init_args": {"backbone": PRIMUS}}
# SGD: AdamW divides by the size of the gradient, which makes steps out of rounding where the gradient is 0.
SGD = ("--model.optim.name", "sgd", "--model.optim.lr", "0.01", "--trainer.gradient_clip_val", "1.0")


DINO = {
    "class_path": "medpretrain3d.objectives.DINO",
    "init_args": {"backbone": PRIMUS, "num_prototypes": 16, "head_channels": [32, 16], "momentum": 0.5},
}
TWO_VIEWS = ("--data.views", "TwoViews")


def arguments(store, root, name: str, batch_size: int) -> list[str]:
    place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", name]
    every = ["--trainer.val_check_interval", "3", "--run.snapshot_every_steps", "3"]
    own = ["--model.objective", json.dumps(MAE), "--data.batch_size", str(batch_size)]
    return [*TINY_PRETRAIN, *place, *SGD, *every, *own]


@pytest.mark.slow
def test_two_shards_end_with_the_encoder_of_one_process_also_when_the_run_was_cut(cube_store, tmp_path):
    on_two = {"stage": "pretrain", "num_processes": 2, "strategy": "fsdp2"}
    cut = {"point": "forward", "step": 4, "signal": 9}
    plan = [
        {"stage": "pretrain", "arguments": arguments(cube_store, tmp_path, "one", 2)},
        {**on_two, "arguments": arguments(cube_store, tmp_path, "two", 1)},
        {**on_two, "arguments": arguments(cube_store, tmp_path, "cut", 1), "cut": cut},
        {**on_two, "arguments": arguments(cube_store, tmp_path, "cut", 1)},
    ]
    codes = sit(plan, tmp_path)
    assert codes == [[0], [0, 0], [-9, -9], [0, 0]], (tmp_path / "sittings.log").read_text(encoding="utf-8")[-4000:]
    one, two, again = (tmp_path / "g" / name for name in ("one", "two", "cut"))
    for place in ("encoder", "snapshots/step_0000003"):
        wanted, found, continued = (load_file(run / place / "encoder.safetensors") for run in (one, two, again))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name].shape == value.shape
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
            assert torch.equal(continued[name], found[name])
    assert read_encoder(two / "encoder").card["pretraining"]["global_batch_size"] == 2
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, two)]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    for name, value in states[0]["state_dict"].items():
        assert states[1]["state_dict"][name].shape == value.shape  # whole


@pytest.mark.slow
def test_a_teacher_that_is_dealt_out_follows_as_a_whole_one(cube_store, tmp_path):
    own = ["--model.objective", json.dumps(DINO), *TWO_VIEWS]
    on_two = {"stage": "pretrain", "num_processes": 2, "strategy": "fsdp2"}
    plan = [
        {"stage": "pretrain", "arguments": [*arguments(cube_store, tmp_path, "one", 2), *own]},
        {**on_two, "arguments": [*arguments(cube_store, tmp_path, "two", 1), *own]},
    ]
    codes = sit(plan, tmp_path)
    assert codes == [[0], [0, 0]], (tmp_path / "sittings.log").read_text(encoding="utf-8")[-4000:]
    one, two = (
        torch.load(tmp_path / "g" / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("one", "two")
    )
    teacher = [name for name in one["state_dict"] if ".teacher." in name and name.endswith("blocks.0.mlp.fc2.weight")]
    assert teacher
    student = teacher[0].replace("teacher.network.0", "backbone")
    assert not torch.equal(one["state_dict"][teacher[0]], one["state_dict"][student])  # it moves more slowly
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=1e-5, rtol=1e-4)
    wanted, found = (load_file(tmp_path / "g" / name / "encoder" / "encoder.safetensors") for name in ("one", "two"))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_probes_see_whole_weights_of_what_is_dealt_out(cube_store, tmp_path):
    """A teacher, before the first step and at a validation."""
    probes = json.dumps([{"class_path": "Probes", "init_args": {"num_crops": 2, "store": str(cube_store)}}])
    held_out = ("--data.num_val_cases", "2", "--trainer.callbacks", probes, "--trainer.max_steps", "3")
    own = [*held_out, "--model.objective", json.dumps(DINO), *TWO_VIEWS]
    on_two = {"stage": "pretrain", "num_processes": 2, "strategy": "fsdp2"}
    plan = [
        {"stage": "pretrain", "arguments": [*arguments(cube_store, tmp_path, "one", 2), *own]},
        {**on_two, "arguments": [*arguments(cube_store, tmp_path, "two", 1), *own]},
    ]
    codes = sit(plan, tmp_path)
    assert codes == [[0], [0, 0]], (tmp_path / "sittings.log").read_text(encoding="utf-8")[-4000:]
    tables = [(tmp_path / "g" / name / "metrics.csv").read_text(encoding="utf-8") for name in ("one", "two")]
    one, two = (list(csv.DictReader(table.splitlines()))[-1] for table in tables)
    for name in ("effective_rank", "feature_std", "knn", "linear"):
        assert float(two[f"probe/{name}"]) == pytest.approx(float(one[f"probe/{name}"]), abs=1e-4)


def test_lightnings_own_shards_are_refused(cube_store, tmp_path):
    with pytest.raises(UserError, match=r"got strategy fsdp, .* wanted fsdp2"):
        program.main(["fit", *arguments(cube_store, tmp_path, "r", 2), "--trainer.strategy", "fsdp"])


@pytest.mark.slow
def test_fine_tuning_is_not_dealt_out(cube_store, tmp_path):
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--trainer.callbacks", "[]"]
    printed = run_program("finetune", *TINY_FINETUNE, *place, "--trainer.strategy", "fsdp2", expect=2)
    assert "trainer.strategy fsdp2: deals out the weights of pretraining alone; take ddp" in printed
