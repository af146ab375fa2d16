"""What is written about a run that was interrupted: its curves, and what it cost."""

from __future__ import annotations

import csv
import json

import pytest

from finetune import __main__ as finetune_program
from finetune.module import FinetuneModule
from pretrain import __main__ as pretrain_program
from pretrain.module import PretrainModule

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

STAGES = {
    "pretrain": (pretrain_program, PretrainModule, TINY_PRETRAIN),
    "finetune": (finetune_program, FinetuneModule, TINY_FINETUNE),
}


@pytest.fixture(params=STAGES)
def stage(request, cube_store, tmp_path):
    program, module, recipe = STAGES[request.param]

    def fit(name: str, *arguments: str):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *recipe, *place, *arguments])
        return tmp_path / "g" / name

    return program, module, fit


def curves(folder):
    """Rows without the figures that are measured by the clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if not key.startswith("perf/")} for row in csv.DictReader(file)]


def facts(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def test_a_run_that_ended_in_its_closing_phase_keeps_its_curves_and_costs(stage, monkeypatch):
    program, _, fit = stage
    whole = fit("whole")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{program.__package__}.cli.finalize", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("cut")
    monkeypatch.undo()
    before = facts(fit("cut").parent / "whole")
    cut = whole.parent / "cut"
    assert curves(cut) == curves(whole)
    assert facts(cut)["flop"] == before["flop"] > 0
    assert facts(cut)["compute_hours"] > 0


def test_the_loss_of_an_accumulated_step_is_the_mean_over_its_batches(stage, monkeypatch):
    _, module, fit = stage
    step, losses = module.training_step, []

    def noted_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(module, "training_step", noted_step)
    folder = fit("run", "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "3")
    logged = [float(row["train/loss"]) for row in curves(folder) if row["train/loss"]]
    assert logged == pytest.approx([sum(losses[index : index + 2]) / 2 for index in (0, 2, 4)], rel=1e-5)


def test_accumulated_batches_count_and_an_interrupted_run_costs_what_all_its_sittings_did(stage, monkeypatch):
    _, module, fit = stage
    twice = ("--trainer.accumulate_grad_batches", "2")
    one, two = fit("one"), fit("two", *twice)
    assert facts(two)["flop"] == 2 * facts(one)["flop"]
    step, seen = module.training_step, []

    def interrupted_step(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == 7:  # behind the checkpoint of step 3, so that no step is lost
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit("cut", *twice)
    sitting = facts(two.parent / "cut")
    monkeypatch.undo()
    cut = fit("cut", *twice)
    assert facts(cut)["flop"] == facts(two)["flop"]
    assert facts(cut)["minutes"] > sitting["minutes"] > 0
    assert facts(cut)["compute_hours"] > sitting["compute_hours"] > 0
    assert [row["step"] for row in curves(cut)] == [row["step"] for row in curves(two)]
    assert [row["train/loss"] for row in curves(cut)] == [row["train/loss"] for row in curves(two)]
