"""Every recipe is a document that runs: it parses, it is built, and it says what it needs."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.study.document import read_study
from medpretrain3d.study.expansion import expand

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*/*.yaml"))
OF_STAGES = [path for path in RECIPES if path.parent.name in ("pretrain", "finetune")]


def merged(path: Path) -> dict[str, Any]:
    """A recipe as it is run: on top of its base."""
    return composed(recipe_layers(path, path.parent.name))


def named_study(path: Path) -> str | None:
    """The study that the head of a recipe says to run."""
    found = re.search(r"^# Run: +medpretrain3d study run (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1]


def uncommented(path: Path) -> str:
    return re.sub(r"(^|\s)#.*", "", path.read_text(encoding="utf-8"))


def base_of(path: Path) -> str | None:
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("base")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_say_data_hardware_expectation_and_command(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("Data:", "Hardware:", "Expect:", "Run:"):
        assert any(line.startswith(f"# {word}") for line in head), f"{path} does not say {word}"


@pytest.mark.parametrize("path", OF_STAGES, ids=lambda path: path.stem)
def test_recipes_parse_into_their_classes_which_they_name_shortly(path):
    recipe = merged(path)
    trainer = recipe.pop("trainer")
    parser = stage_parser(path.parent.name)
    parsed = parser.parse_object({**recipe, "callbacks": trainer.get("callbacks", [])})
    assert trainer["max_steps"] > 0
    part = "objective" if path.parent.name == "pretrain" else "detector"
    assert parsed.model[part].class_path.startswith("medpretrain3d.")
    assert all("." not in name for name in class_names(recipe)), "short names read better, and survive a move"


def test_recipes_of_reconstruction_on_a_ct_corpus_place_their_crops_alike():
    """Objectives are compared by them: where crops lie must not tell them apart."""
    from medpretrain3d import objectives

    placed = {}
    for path in (ROOT / "configs" / "pretrain").glob("*.yaml"):
        recipe = merged(path)
        kind = getattr(objectives, recipe["model"]["objective"]["class_path"])
        is_windowed = "window" not in recipe["data"]
        if kind.paradigm == "reconstruction" and recipe["data"]["store"] == "data/corpus" and is_windowed:
            placed[path.stem] = recipe["data"].get("crop_sampler")
    assert len(placed) > 8
    half = {"class_path": "CropSampler", "init_args": {"foreground_share": 0.5, "min_foreground": 0.5}}
    assert {name: one for name, one in placed.items() if one != half} == {}


RUN_BY_STUDY = {path: study for path in OF_STAGES if (study := named_study(path))}


@pytest.mark.parametrize("path", RUN_BY_STUDY, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_study_that_a_recipe_says_to_run_runs_it(path):
    study = ROOT / "configs" / "study" / f"{RUN_BY_STUDY[path]}.yaml"
    words = set(re.findall(r"\w+", uncommented(study)))
    while True:
        bases = {str(base).removesuffix(".yaml") for one in OF_STAGES if one.stem in words and (base := base_of(one))}
        if bases <= words:
            break
        words |= bases
    assert path.stem in words, f"{study.name} does not name {path.stem}"


def class_names(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in class_names(one)]
    if not isinstance(value, dict):
        return []
    own = [value["class_path"]] if "class_path" in value else []
    return own + [name for one in value.values() for name in class_names(one)]


@functools.cache
def stage_parser(stage: str) -> Any:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.cli import LightningArgumentParser

    from finetune.datamodule import FinetuneData
    from finetune.module import FinetuneModule
    from medpretrain3d.engine.run import RunConfig
    from pretrain.datamodule import PretrainData
    from pretrain.module import PretrainModule

    importlib.import_module(f"{stage}.cli")  # what the program imports has a short name
    module, data = (PretrainModule, PretrainData) if stage == "pretrain" else (FinetuneModule, FinetuneData)
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(module, "model")
    parser.add_lightning_class_args(data, "data")
    parser.add_class_arguments(RunConfig, "run")
    if module is PretrainModule:  # as the program does: a supervised objective learns its classes from the data
        parser.link_arguments("data.classes", "model.objective.init_args.classes", apply_on="instantiate")
    parser.add_argument("--callbacks", type=list[Callback])
    return parser


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "study"], ids=lambda path: path.stem)
def test_studies_are_read_and_their_jobs_are_known_once_the_data_are(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    for arm in study.arms:
        if arm.init_from is not None:  # a file that a user fetches
            place = tmp_path / arm.init_from
            file = place if place.suffix else place / "model.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(arm.name.encode())
    jobs = expand(study)
    assert jobs.of_kind("finetune")
    assert set(jobs.unknown) == {job.setting["store"] for job in jobs.of_kind("prepare")}
