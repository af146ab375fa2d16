"""A machine with more GPUs than a recipe needs changes nothing about its result."""

from __future__ import annotations

import re

import pytest
import yaml

from medpretrain3d.engine import stage_cli
from medpretrain3d.engine.continuation import global_batch, num_devices
from medpretrain3d.precision.choice import PrecisionChoice
from pretrain import __main__ as program

from .test_recipes_parse import OF_STAGES, merged


@pytest.fixture(params=[1, 2, 8])
def num_gpus(request, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("path", OF_STAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_names_its_devices(path):
    hardware = next(line for line in path.read_text(encoding="utf-8").splitlines() if "Hardware:" in line)
    several = re.search(r"(\d+) x ", hardware)  # on each node
    assert merged(path)["trainer"]["devices"] == (int(several[1]) if several else 1)


def test_the_samples_of_a_step_are_those_of_the_recipe(num_gpus):
    for path in OF_STAGES:
        recipe = merged(path)
        assert global_batch(recipe) == recipe["data"]["batch_size"] * recipe["trainer"]["devices"]


def test_a_recipe_that_names_none_takes_one(num_gpus, monkeypatch, capsys):
    monkeypatch.setattr(stage_cli, "precision_of_run", lambda *_: PrecisionChoice("32-true", "for this test"))
    for words, wanted in (([], 1), (["--trainer.devices", "-1"], num_gpus), (["--trainer.devices", "auto"], num_gpus)):
        bare = ["--model.objective", "MAE", "--model.objective.backbone", "ResEnc", "--data.store", "s"]
        bare += ["--data.patch", "[16,16,16]", "--data.batch_size", "1", "--trainer.max_steps", "1", *words]
        with pytest.raises(SystemExit):
            program.main(["fit", *bare, "--print_config"])
        trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
        assert num_devices(trainer["devices"], trainer["accelerator"]) == wanted
