"""A run is continued with another configuration where that cannot change its result, and a finished one is extended."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from medpretrain3d.errors import UserError
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import split_store
from pretrain import __main__ as pretrain_program
from pretrain.module import PretrainModule

from .test_continued_run import STAGES

PRODUCTS = {"pretrain": ("encoder", "encoder"), "finetune": ("bundle", "detector")}
CONSTANT = ("--model.optim.schedule", "constant")
AVERAGED = (
    "--trainer.callbacks",
    "[{class_path: lightning.pytorch.callbacks.EMAWeightAveraging, init_args: {decay: 0.5}}]",
)


def fit(stage, store, root, name, *arguments):
    program, _, recipe = STAGES[stage]
    place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", name]
    program.main(["fit", *recipe, *place, *arguments])
    return root / "g" / name


def weights(stage, folder):
    product, name = PRODUCTS[stage]
    return load_file(folder / product / f"{name}.safetensors")


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_run_of_constant_rate_is_extended_exactly(stage, cube_store, tmp_path):
    options = (*CONSTANT, *(AVERAGED if stage == "pretrain" else ()), "--trainer.val_check_interval", "2")
    whole = fit(stage, cube_store, tmp_path, "whole", *options, "--trainer.max_steps", "5")
    short = fit(stage, cube_store, tmp_path, "short", *options, "--trainer.max_steps", "3")
    before = weights(stage, short)
    assert fit(stage, cube_store, tmp_path, "short", *options, "--trainer.max_steps", "5") == short
    extended, wanted = weights(stage, short), weights(stage, whole)
    assert any(not torch.equal(before[name], value) for name, value in extended.items())
    assert all(torch.equal(wanted[name], value) for name, value in extended.items())
    facts = json.loads((short / "run.json").read_text(encoding="utf-8"))
    assert (facts["finished"], facts["steps"], facts["budget_steps"]) == (True, 5, 5)
    with (short / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    with pytest.raises(UserError, match=r"has made 5 steps, trainer.max_steps is 4; give at least that"):
        fit(stage, cube_store, tmp_path, "short", *options, "--trainer.max_steps", "4")
    with pytest.raises(UserError, match=r"is finished; .* or a larger trainer.max_steps to extend it"):
        fit(stage, cube_store, tmp_path, "short", *options, "--trainer.max_steps", "5")


@pytest.mark.parametrize("stage", STAGES)
def test_folds_that_are_dealt_out_again_are_those_of_another_run(stage, cube_store, tmp_path):
    store = shutil.copytree(cube_store, tmp_path / "store")
    options = (*CONSTANT, "--data.fold", "0", "--trainer.val_check_interval", "2", "--trainer.max_steps")
    options = (*(("--data.num_val_cases", "1") if stage == "pretrain" else ()), *options)
    split_store(Store(store), 3, seed=0)
    folder = fit(stage, store, tmp_path, "run", *options, "2")
    before = weights(stage, folder)
    split_store(Store(store), 3, seed=5)
    with pytest.raises(UserError, match=r"which cases train, validate and test \(splits.json .*\) \w{12} -> \w{12}"):
        fit(stage, store, tmp_path, "run", *options, "3")
    assert all(torch.equal(value, before[name]) for name, value in weights(stage, folder).items())
    # A run of an earlier version did not write which cases they are.
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**facts, "cases_fingerprint": None}), encoding="utf-8")
    fit(stage, store, tmp_path, "run", *options, "3")
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["cases_fingerprint"]


def test_a_table_of_labels_may_move_and_not_change(cube_store, tmp_path):
    objective = {"class_path": "CaseClassification", "init_args": {"backbone": {"class_path": "ResEnc"}}}
    objective["init_args"]["backbone"]["init_args"] = {"preset": "XXS"}

    def taught(table, labels, steps):
        rows = [f"{case},{label}\n" for case, label in labels.items()]
        (tmp_path / table).write_text("".join(["case,label\n", *rows]), encoding="utf-8")
        views = {"class_path": "CaseLabelView", "init_args": {"table": str(tmp_path / table), "unlabeled": "skip"}}
        options = ("--data.views", json.dumps(views), "--data.split", "train", "--data.num_val_cases", "0")
        options += ("--model.objective", json.dumps(objective), "--trainer.limit_val_batches", "0", *CONSTANT)
        return fit("pretrain", cube_store, tmp_path, "run", *options, "--trainer.max_steps", str(steps))

    labels = {f"train_{number}": "ab"[number % 2] for number in range(4)}
    taught("one.csv", labels, 3)
    with pytest.raises(UserError, match=r"what is in data.views.init_args.table \w{12} -> \w{12} \(fingerprints\)"):
        taught("one.csv", {case: "ba"["ab".index(label)] for case, label in labels.items()}, 4)
    taught("other.csv", dict(reversed(labels.items())), 4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_compiled_and_back(stage, cube_store, tmp_path, capsys):
    compiled = ("--device.compile", "eager")  # traces, and computes with the same kernels
    options = (
        *CONSTANT,
        "--model.optim.name",
        "sgd",
        "--model.optim.warmup_steps",
        "0",
        "--trainer.val_check_interval",
        "1",
    )
    wanted = weights(stage, fit(stage, cube_store, tmp_path, "whole", *options, "--trainer.max_steps", "2"))
    for name, first, then in (("forth", (), compiled), ("back", compiled, ())):
        fit(stage, cube_store, tmp_path, name, *options, *first, "--trainer.max_steps", "1")
        said = capsys.readouterr().out
        assert ("device.compile: eager, when they are first called: backbone" in said) == bool(first)
        found = weights(stage, fit(stage, cube_store, tmp_path, name, *options, *then, "--trainer.max_steps", "2"))
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value)
    torch._dynamo.reset()


def test_a_falling_schedule_says_what_an_extension_makes_of_it(cube_store, tmp_path, capsys):
    options = ("--model.optim.lr", "0.1", "--model.optim.schedule", "cosine", "--model.optim.warmup_steps", "0")
    options += ("--model.optim.weight_decay", "0.1", "--model.optim.weight_decay_end", "0.3")
    options += ("--trainer.val_check_interval", "2")
    fit("pretrain", cube_store, tmp_path, "run", *options, "--trainer.max_steps", "2")
    assert "the learning rate goes" not in capsys.readouterr().out
    folder = fit("pretrain", cube_store, tmp_path, "run", *options, "--trainer.max_steps", "4")
    # At its end a cosine of 2 steps is 0, one of 4 steps is halfway down there.
    said = "at step 2 the learning rate goes from 0 to 0.05, the weight decay goes from 0.3 to 0.2;"
    assert said in capsys.readouterr().out
    with (folder / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    assert rates[:3] == pytest.approx([0.1, 0.05, 0.05])


def test_an_interrupted_run_goes_on_elsewhere_and_faster_but_not_otherwise(cube_store, tmp_path, monkeypatch, capsys):
    whole = weights("pretrain", fit("pretrain", cube_store, tmp_path, "whole"))

    def interrupted_step(self, batch, batch_idx):
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    step = PretrainModule.training_step
    monkeypatch.setattr(PretrainModule, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit("pretrain", cube_store, tmp_path, "cut")
    monkeypatch.setattr(PretrainModule, "training_step", step)
    with pytest.raises(UserError) as caught:
        fit("pretrain", cube_store, tmp_path, "cut", "--model.optim.lr", "0.5", "--data.batch_size", "1")
    message = str(caught.value)
    assert "model.optim.lr 0.001 -> 0.5" in message
    assert "data.batch_size 2 -> 1" in message
    assert "\n" not in message
    (tmp_path / "moved").symlink_to(cube_store)
    monkeypatch.chdir(tmp_path)
    recipes = [
        os.path.join(os.path.dirname(__file__), "..", "..", "configs", "pretrain", one) for one in ("demo", "smoke")
    ]
    pretrain_program.main(
        [
            *("fit", "--config", f"{recipes[0]}.yaml", "--config", f"{recipes[1]}.yaml", "--data.patch", "[16,16,16]"),
            *("--data.store", "moved", "--run.root", ".", "--run.group", "g", "--run.name", "cut"),
            *("--data.num_workers", "1", "--trainer.log_every_n_steps", "2", "--run.wandb", "offline"),
        ]
    )
    resumed = weights("pretrain", tmp_path / "g" / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
