"""A run that diverges ends with an error and leaves the last good checkpoint, from which it goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from finetune import __main__ as finetune_program
from finetune.module import FinetuneModule
from medpretrain3d.errors import UserError
from pretrain import __main__ as pretrain_program
from pretrain.module import PretrainModule

from .conftest import TINY_FINETUNE, TINY_PRETRAIN
from .sittings import run_sitting

STAGES = {
    "pretrain": (pretrain_program, PretrainModule, TINY_PRETRAIN, "encoder"),
    "finetune": (finetune_program, FinetuneModule, TINY_FINETUNE, "bundle"),
}
FAR_TOO_FAST = ["--model.optim.lr", "1e30", "--trainer.gradient_clip_val", "null"]


@pytest.fixture(params=STAGES)
def stage(request, cube_store, tmp_path):
    program, module, recipe, product = STAGES[request.param]
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run"]

    def fit(*arguments: str):
        program.main(["fit", *recipe, *place, *arguments])

    return fit, module, tmp_path / "g" / "run", product


def rows(folder: Path, column: str) -> dict[int, float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("pretrain", 1),
        ("finetune", 1),
        pytest.param("pretrain", 2, marks=pytest.mark.slow),
        pytest.param("finetune", 2, marks=pytest.mark.slow),
    ],
)
def test_a_rate_that_is_far_too_high_ends_the_program_in_one_line(name, processes, cube_store, tmp_path):
    _, _, recipe, product = STAGES[name]
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.name", "run"]
    place += ["--data.batch_size", str(2 // processes)]
    printed = run_sitting(tmp_path, name, *recipe, *place, *FAR_TOO_FAST, expect=2, num_processes=processes)
    told = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in printed
    assert told
    assert "step 1: the norm of the weights is not finite: the run has diverged; there is no checkpoint" in told[0]
    folder = tmp_path / "smoke" / "run"
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"] is False
    assert not (folder / product).exists()
    assert not list(folder.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("stage", "spoilt"),
    [
        ("pretrain", "the loss"),
        ("pretrain", "the norm of the gradients"),
        ("finetune", "the loss"),
        ("finetune", "the norm of the weights"),
    ],
    indirect=["stage"],
)
def test_the_last_good_checkpoint_stays_and_the_run_goes_on_from_it(stage, spoilt, monkeypatch):
    fit, module, folder, product = stage
    step, made = module.training_step, []

    def spoilt_step(self, batch, batch_idx):
        made.append(batch_idx)
        loss = step(self, batch, batch_idx)
        if len(made) < 5:
            return loss
        weight = next(self.parameters())
        if spoilt == "the loss":
            return loss + torch.nan
        if spoilt == "the norm of the gradients":
            weight.register_hook(lambda gradient: gradient * torch.inf)
        else:
            weight.data.fill_(1e30)
        return loss

    monkeypatch.setattr(module, "training_step", spoilt_step)
    with pytest.raises(
        UserError, match=rf"^step 5: {spoilt} is not finite.*last good checkpoint is \S+step_0000003.ckpt"
    ):
        fit()
    assert made == [0, 1, 2, 3, 4]
    assert not (folder / product).exists()
    monkeypatch.undo()
    if spoilt == "the loss":
        last = str(folder / "checkpoints" / "last.ckpt")
        fit("--run.name", "slower", "--model.init_from", last, "--model.optim.lr", "1e-4")
        assert (folder.parent / "slower" / product).is_dir()
    fit()  # the same run
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"] is True
    assert (folder / product).is_dir()


def test_a_checkpoint_that_is_not_finite_is_passed_over(stage, monkeypatch):
    fit, module, folder, _ = stage
    step = module.training_step

    def interrupted_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit()
    monkeypatch.undo()
    newest, before = folder / "checkpoints" / "step_0000004.ckpt", folder / "checkpoints" / "step_0000003.ckpt"
    if not newest.exists():  # an interrupted step leaves the one that was written before it
        newest.write_bytes(before.read_bytes())
    state = torch.load(newest, weights_only=True)
    next(iter(state["state_dict"].values())).flatten()[0] = torch.nan
    torch.save(state, newest)
    fit()
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"] is True


def test_validation_counts_steps_of_the_optimizer_when_batches_are_accumulated(stage):
    fit, _, folder, _ = stage
    fit("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2")
    curve = "val/loss" if folder.joinpath("encoder").exists() else "val/mAP"
    assert len(rows(folder, curve)) == 2
    assert sorted(rows(folder, "train/loss")) == [0, 1, 2, 3]
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "val_check_interval: 2\n" in config
