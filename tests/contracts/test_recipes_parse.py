"""Every recipe is a document that runs: it parses, it is built, and it says what it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpretrain3d.study.chain import read_chain

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*/*.yaml"))


def merged(path: Path) -> dict[str, Any]:
    """A recipe as it is run: one that says "What ... changes of x.yaml" lies over that one."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = re.search(r"^# What .* changes? of (\w+\.yaml)", path.read_text(encoding="utf-8"))
    return overlay(merged(path.with_name(base.group(1))), recipe) if base else recipe


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = overlay(result[key], value) if both else value
    return result


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_say_data_hardware_expectation_and_command(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("Data:", "Hardware:", "Expect:", "Run:"):
        assert any(line.startswith(f"# {word}") for line in head), f"{path} does not say {word}"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name != "study"], ids=lambda path: path.stem)
def test_recipes_parse_into_their_classes(path):
    from lightning.pytorch.cli import LightningArgumentParser

    from finetune.datamodule import FinetuneData
    from finetune.module import FinetuneModule
    from medpretrain3d.engine.run import RunConfig
    from pretrain.datamodule import PretrainData
    from pretrain.module import PretrainModule

    module, data = (PretrainModule, PretrainData) if path.parent.name == "pretrain" else (FinetuneModule, FinetuneData)
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(module, "model")
    parser.add_lightning_class_args(data, "data")
    parser.add_class_arguments(RunConfig, "run")
    if module is PretrainModule:  # as the program does: a supervised objective learns its classes from the data
        parser.link_arguments("data.classes", "model.objective.init_args.classes", apply_on="instantiate")
    recipe = merged(path)
    trainer = recipe.pop("trainer")
    parsed = parser.parse_object(recipe)
    assert trainer["max_steps"] > 0
    part = "objective" if path.parent.name == "pretrain" else "detector"
    assert parsed.model[part].class_path.startswith("medpretrain3d.")


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "study"], ids=lambda path: path.stem)
def test_studies_name_recipes_that_exist(path):
    steps = read_chain(path)
    assert steps[-1].product.suffix == ".html"
    for step in steps:
        for word in step.command:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), f"{path}: step '{step.name}' names {word}"
