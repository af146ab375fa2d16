"""Stage 1 through its real entry point."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from pretrain import __main__ as program
from pretrain.module import PretrainModule

from .conftest import TINY_PRETRAIN, run_program
from .sittings import run_sitting


@pytest.fixture
def fit(cube_store, tmp_path):
    def run(*arguments: str, name: str = "run"):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        program.main(["fit", *TINY_PRETRAIN, *place, *arguments])
        return tmp_path / "g" / name

    return run


def weights(folder):
    return load_file(folder / "encoder" / "encoder.safetensors")


def test_two_steps_end_with_an_encoder_file_curves_and_pictures(fit, cube_store):
    folder = fit()
    encoder = read_encoder(folder / "encoder")
    backbone = from_config(encoder.architecture)
    backbone.load_state_dict(encoder.weights)
    card = encoder.card
    assert card["pretraining"]["steps"] == 6
    assert (card["pretraining"]["paradigm"], card["pretraining"]["method"]) == ("reconstruction", "mae")
    assert len(card["pretraining"]["data_fingerprint"]) == 64
    assert card["pretraining"]["compute_hours"] > 0
    assert card["pretraining"]["flop"] % 6 == 0  # six times one step
    assert card["preprocessing"]["spacing_mm"] == [2.0, 2.0, 2.0]
    assert card["preprocessing"]["window"]["init_args"] == {"low_hu": -1024.0, "high_hu": 1024.0}
    assert "mask_block" in card["config"]
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert facts["finished"] is True
    assert facts["num_pretrain_volumes"] == 3  # 4 training cases, 1 held out
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"train/loss", "val/loss", "lr"} <= set(rows[0])
    assert len(list((folder / "previews").glob("step_*.png"))) == 2


def test_pretraining_goes_on_from_an_encoder_and_says_so(fit, tmp_path, capsys):
    save_encoder(tmp_path / "start", ResEnc("XXS"), {"licence": "cc-by-4.0", "citations": ["A paper."]})
    start = load_file(tmp_path / "start" / "encoder.safetensors")
    folder = fit("--model.init_from", str(tmp_path / "start"), "--model.optim.lr", "0.0")
    assert "backbone tensors matched; fresh: decoder" in capsys.readouterr().out
    assert all(torch.equal(value, start[name]) for name, value in weights(folder).items())
    origin = read_encoder(folder / "encoder").card["continued_from"]
    assert (origin["licence"], origin["citations"]) == ("cc-by-4.0", ["A paper."])


def test_checkpoints_hold_plain_data_only(fit):
    folder = fit()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 6


def test_an_interrupted_run_continues_and_ends_with_the_same_weights(fit, monkeypatch, capsys):
    uninterrupted = weights(fit(name="whole"))
    step = PretrainModule.training_step
    seen = []

    def interrupted_step(self, batch, batch_idx):
        seen.append(batch["seed"].tolist())
        if len(seen) == 5:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fit(name="cut")
    monkeypatch.setattr(PretrainModule, "training_step", step)
    resumed = weights(fit(name="cut"))
    assert "continuing an interrupted run" in capsys.readouterr().out
    assert all(torch.equal(value, resumed[name]) for name, value in uninterrupted.items())


def test_a_finished_run_is_not_overwritten_unasked(fit):
    fit()
    with pytest.raises(UserError, match="this run is finished"):
        fit()
    fit("--run.restart", "true")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.objective.init_args.mask_rato", "0.5"], "mask_rat"),
        (["--data.patch", "[16,20,16]"], r"H is 20, must be a multiple of the coarsest stride 8; use 16 or 24"),
        (["--data.store", "nowhere"], "nowhere: no such folder"),
        (["--data.num_val_cases", "99"], "leaves none of the 4 cases"),
        (["--model.optim.lr", "high"], "lr"),
    ],
)
def test_bad_settings_end_with_one_line(fit, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        fit(*arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("encoder*"))


def test_a_misspelt_key_names_the_nearest_one(cube_store, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {optim: {warmup_step: 3}}\n")
    printed = run_program("pretrain", *TINY_PRETRAIN, "--config", str(recipe), expect=2)
    assert "unknown key 'warmup_step'; did you mean 'warmup_steps'?" in printed.splitlines()[-1]
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("argument", "meant"),
    [("--model.optim.warmup_step=1", "warmup_steps"), ("--optm.lr=1", "model.optim.lr")],
)
def test_a_misspelt_argument_is_no_abbreviation(cube_store, argument, meant):
    printed = run_program("pretrain", *TINY_PRETRAIN, "--data.store", str(cube_store), argument, expect=2)
    assert f"did you mean '{meant}'?" in printed.splitlines()[-1]


def test_two_processes_learn_what_one_learns(cube_store, tmp_path):
    def arguments(name):
        return [*TINY_PRETRAIN, "--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.name", name]

    # SGD: AdamW divides by the size of the gradient, which makes steps out of rounding where the gradient is 0.
    sgd = ["--model.optim.name", "sgd", "--model.optim.lr", "0.01"]
    run_sitting(tmp_path, "pretrain", *arguments("one"), *sgd, "--data.batch_size", "2")
    run_sitting(tmp_path, "pretrain", *arguments("two"), *sgd, "--data.batch_size", "1", num_processes=2)
    one, two_ = (weights(tmp_path / "smoke" / name) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two_[name], value, atol=1e-5, rtol=1e-4)
    curves = []
    for name in ("one", "two"):
        with (tmp_path / "smoke" / name / "metrics.csv").open(newline="") as file:
            curves.append([(float(row["train/loss"]), row["lr"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(curves[0]) == 6
    for (loss, lr), (loss_of_two, lr_of_two) in zip(*curves, strict=True):
        assert loss_of_two == pytest.approx(loss, rel=1e-4)  # the mean over processes
        assert lr_of_two == lr


def test_bf16_training_keeps_the_loss_finite(fit):
    # 24 voxels along D: bf16 weight gradients on the CPU are garbage where a feature map is 2 cells long (torch 2.14).
    folder = fit(
        *("--trainer.precision", "bf16-mixed", "--trainer.max_steps", "2", "--data.patch", "[24,16,16]"),
        *("--trainer.val_check_interval", "2"),
    )
    with (folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses
    assert all(0 < loss < 10 for loss in losses)
