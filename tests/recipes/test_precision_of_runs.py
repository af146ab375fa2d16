"""The precision of both stages through their programs: what is chosen, said, kept in `run.json` and gone on with."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune import __main__ as finetune_program
from medpretrain3d.backbones import ResEnc
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import Objective
from medpretrain3d.precision import choice
from medpretrain3d.precision.choice import ENVIRONMENT, PrecisionChoice
from pretrain import __main__ as pretrain_program

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

AVERAGED = json.dumps([{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}])
ONE_STEP = ("--model.optim.warmup_steps", "0", "--trainer.val_check_interval", "1")


@pytest.fixture
def measured(monkeypatch):
    """Set what a measurement says of this machine."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)

    def say(precision, ratio):
        monkeypatch.setattr(choice, "_of_device", lambda _: PrecisionChoice(precision, f"{ratio} x", ratio))

    return say


@pytest.fixture
def fit(cube_store, tmp_path):
    programs = {"pretrain": (pretrain_program, TINY_PRETRAIN), "finetune": (finetune_program, TINY_FINETUNE)}

    def run(stage, *arguments):
        program, recipe = programs[stage]
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run"]
        program.main(["fit", *recipe, *place, "--trainer.accelerator", "cpu", *arguments])
        return json.loads((tmp_path / "g" / "run" / "run.json").read_text(encoding="utf-8"))

    return run


def test_the_choice_is_said_kept_and_gone_on_with_on_another_machine(fit, measured, capsys):
    measured("bf16-mixed", 1.8)
    constant = ("--model.optim.schedule", "constant", *ONE_STEP)
    facts = fit("pretrain", *constant, "--trainer.max_steps", "1")
    assert "precision bf16-mixed: 1.8 x\n" in capsys.readouterr().out
    assert (facts["precision"], facts["bf16_speed_ratio"]) == ("bf16-mixed", 1.8)
    measured("32-true", 0.1)
    facts = fit("pretrain", *constant, "--trainer.max_steps", "2")
    told = "precision bf16-mixed: as this run began; a run that began here would take 32-true: 0.1 x\n"
    assert told in capsys.readouterr().out
    assert (facts["steps"], facts["precision"], facts["bf16_speed_ratio"]) == (2, "bf16-mixed", 1.8)
    with pytest.raises(UserError, match=r"another configuration: trainer\.precision bf16-mixed -> 32-true; take"):
        fit("pretrain", *constant, "--trainer.max_steps", "3", "--trainer.precision", "32-true")


def test_weights_trained_in_bf16_end_in_a_file_of_fp32_and_go_on(fit, tmp_path):
    averaged = ("--trainer.callbacks", AVERAGED)  # in fp32
    words = ("--trainer.precision", "bf16-true", *ONE_STEP, "--model.optim.schedule", "constant", *averaged)
    for steps in (1, 2):
        facts = fit("pretrain", *words, "--trainer.max_steps", str(steps))
        assert (facts["steps"], facts["precision"]) == (steps, "bf16-true")
        weights = load_file(tmp_path / "g" / "run" / "encoder" / "encoder.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float32}
        assert any(not torch.equal(value, value.bfloat16().float()) for value in weights.values() if value.ndim > 1)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_probes_compute_in_the_precision_of_the_run(fit, monkeypatch, precision):
    ran, encode = set(), Objective.encode

    def noting(self, image):
        maps = encode(self, image)
        ran.add(maps[-1].dtype)
        return maps

    monkeypatch.setattr(Objective, "encode", noting)
    probes = json.dumps([{"class_path": "Probes", "init_args": {"num_crops": 2}}])
    held_out = ("--data.num_val_cases", "2", "--trainer.max_steps", "1", *ONE_STEP)
    fit("pretrain", "--trainer.precision", precision, "--trainer.callbacks", probes, *held_out)
    assert ran == {torch.bfloat16}


@pytest.mark.slow
def test_training_validation_and_test_run_in_what_is_typed(fit, measured, monkeypatch, capsys):
    measured("bf16-mixed", 1.8)
    ran, forward = set(), ResEnc.forward

    def noting(self, image):
        found = forward(self, image)
        ran.add((torch.is_inference_mode_enabled(), found[0].dtype))
        return found

    monkeypatch.setattr(ResEnc, "forward", noting)
    fewer_tiles = ("--model.inference.overlap", "0.0", "--data.num_train_cases", "2")
    facts = fit("finetune", "--trainer.precision", "16", "--trainer.max_steps", "1", *ONE_STEP, *fewer_tiles)
    assert ran == {(False, torch.float16), (True, torch.float16)}
    assert (facts["precision"], facts["bf16_speed_ratio"]) == ("16-mixed", None)
    assert "precision 16-mixed: as trainer.precision says; fp16 is emulated on CPUs" in capsys.readouterr().out
