"""What a run keeps on its way: weights every so many steps, and states by the clock."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune import __main__ as finetune_program
from medpretrain3d.backbones import read_encoder
from medpretrain3d.engine.checkpoint_files import num_steps_done
from medpretrain3d.engine.run import RunFile
from medpretrain3d.inference import load_bundle
from pretrain import __main__ as pretrain_program
from pretrain.module import PretrainModule

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

STAGES = {
    "pretrain": (pretrain_program, TINY_PRETRAIN, "encoder/encoder.safetensors"),
    "finetune": (finetune_program, TINY_FINETUNE, "bundle/detector.safetensors"),
}
AVERAGED = [{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}]
CONSTANT = ("--model.optim.schedule", "constant", "--trainer.callbacks", json.dumps(AVERAGED))


@pytest.fixture
def fit(cube_store, tmp_path):
    def run(stage: str, name: str, *arguments: str):
        program, recipe, _ = STAGES[stage]
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *recipe, *place, *arguments])
        return tmp_path / "g" / name

    return run


@pytest.mark.parametrize("stage", STAGES)
def test_a_snapshot_is_what_a_run_of_so_many_steps_ends_with_and_changes_nothing(stage, fit, capsys):
    options = (*CONSTANT, "--trainer.val_check_interval", "2", "--trainer.max_steps")
    folder = fit(stage, "kept", *options, "4", "--run.snapshot_every_steps", "2")
    product = STAGES[stage][2]
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == ["step_0000002", "step_0000004"]
    assert f"step 2: snapshot {folder}/snapshots/step_0000002" in capsys.readouterr().out
    brief = load_file(fit(stage, "brief", *options, "2") / product)
    kept = load_file(folder / "snapshots" / "step_0000002" / product.rpartition("/")[2])
    assert brief.keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in brief.items())
    plain = fit(stage, "plain", *options, "4")
    assert (plain / product).read_bytes() == (folder / product).read_bytes()
    assert not (plain / "snapshots").exists()


def test_snapshots_are_fine_tuned_and_predicted_with(fit):
    folder = fit("pretrain", "start", "--run.snapshot_every_steps", "4")
    encoder = read_encoder(folder / "snapshots" / "step_0000004")
    assert encoder.card["pretraining"]["steps"] == 4
    once = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--run.snapshot_every_steps", "1")
    tuned = fit("finetune", "tuned", "--model.init_from", str(folder / "snapshots" / "step_0000004"), *once)
    assert RunFile(tuned).read().checkpoint_sha256 == encoder.sha256
    assert load_bundle(tuned / "snapshots" / "step_0000001").classes == load_bundle(tuned / "bundle").classes


def test_snapshots_by_the_hour_count_the_hours_of_all_sittings(fit, monkeypatch):
    # Each step takes half an hour; what is read between is not counted.
    steps = {"hours": 0.0}
    monkeypatch.setattr(RunFile, "minutes", property(lambda self: 60 * steps["hours"]))
    step = PretrainModule.training_step

    def slow_step(self, batch, batch_idx):
        steps["hours"] += 0.5
        if steps.get("cut") == self.trainer.global_step:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", slow_step)
    steps["cut"] = 3
    hourly = ("--run.snapshot_every_hours", "1", "--trainer.val_check_interval", "3")
    with pytest.raises(SystemExit):
        fit("pretrain", "run", *hourly)
    del steps["cut"]
    folder = fit("pretrain", "run", *hourly)
    # Steps 1 to 3 took 1.5 hours and the lost fourth one half: the second hour is over as the run goes on.
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    assert names == ["step_0000002", "step_0000003", "step_0000005"]


def test_a_state_is_kept_by_the_clock_too(fit, tmp_path, monkeypatch):
    step = PretrainModule.training_step

    def interrupted_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", interrupted_step)
    kept = {}
    for name, minutes in (("often", "1e-9"), ("seldom", "15")):
        with pytest.raises(SystemExit):
            fit("pretrain", name, "--run.checkpoint_every_minutes", minutes, "--trainer.val_check_interval", "6")
        kept[name] = num_steps_done(tmp_path / "g" / name / "checkpoints")
    assert kept == {"often": 4, "seldom": 0}
