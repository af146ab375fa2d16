"""The file of a sweep: what wandb reads, checked against what the stages take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from medpretrain3d.command_line.precheck import precheck
from medpretrain3d.command_line.stages import stage_words
from medpretrain3d.errors import UserError
from medpretrain3d.study.sweep_file import Choice, Interval, read_sweep

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
VALID = {
    "method": "random",
    "metric": {"name": "val/mAP", "goal": "maximize"},
    "parameters": {"model.optim.lr": {"min": 0.001, "max": 0.1}},
    "command": ["${env}", "medpretrain3d", "finetune", "--config", "smoke", "${args}"],
}


def written(tmp_path, **changes):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**VALID, **changes}))
    return path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_that_ships_is_a_command_line_of_its_stage_at_every_end(path):
    sweep = read_sweep(path)
    ends = {
        name: one.values if isinstance(one, Choice) else (one.low, one.high) for name, one in sweep.parameters.items()
    }
    for place in range(max(map(len, ends.values()))):
        values = {name: found[min(place, len(found) - 1)] for name, found in ends.items()}
        precheck(sweep.stage, stage_words(sweep.command(values), sweep.stage)[1:])
    with pytest.raises(UserError, match="no_such_option"):
        precheck(sweep.stage, stage_words(sweep.command({"model.no_such_option": 1}), sweep.stage)[1:])
    assert yaml.safe_load(path.read_text())["program"] == "medpretrain3d"  # which wandb asks for


def test_numbers_are_read_as_in_recipes(tmp_path):
    """PyYAML takes `1e-5` for a text, as it is none in YAML 1.1 without a point."""
    path = written(tmp_path, parameters={"model.optim.lr": {"min": 7.0, "max": 8.0}})
    path.write_text(path.read_text().replace("7.0", "1e-5").replace("8.0", "1e-2"))
    assert read_sweep(path).parameters == {"model.optim.lr": Interval(1e-5, 1e-2)}


def test_words_are_those_of_an_agent(tmp_path):
    sweep = read_sweep(written(tmp_path))
    assert (sweep.name, sweep.stage, sweep.is_maximized) == ("sweep", "finetune", True)
    assert sweep.command({"model.optim.lr": 0.01, "a": None}) == [
        "--config",
        "smoke",
        "--model.optim.lr=0.01",
        "--a=None",
    ]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"value": 3}, Choice((3,))),
        ({"values": [1, "a", [8, 8, 8]]}, Choice((1, "a", "[8, 8, 8]"))),
        ({"min": 1, "max": 4}, Interval(1, 4, is_whole=True)),
        ({"min": 1, "max": 4.5}, Interval(1, 4.5)),
        ({"min": 0.1, "max": 10, "distribution": "log_uniform_values"}, Interval(0.1, 10, is_log=True)),
        ({"min": 0, "max": 1, "q": 0.25, "distribution": "q_uniform"}, Interval(0, 1, step=0.25)),
    ],
)
def test_what_a_parameter_may_be(tmp_path, entry, expected):
    assert read_sweep(written(tmp_path, parameters={"x": entry})).parameters == {"x": expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayesian"}, "method: got 'bayesian', wanted bayes, random, grid; did you mean"),
        ({"methods": "bayes"}, "unknown key 'methods'"),
        ({"early_terminate": {"type": "hyperband"}}, "unknown key 'early_terminate'"),
        ({"metric": {"name": "val/mAP", "goal": "max"}}, "metric.goal: got 'max', wanted maximize, minimize"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameters.x: got min 2 and max 1"),
        ({"parameters": {"x": {"min": 0, "max": 1, "distribution": "log_uniform_values"}}}, "wanted above 0"),
        ({"parameters": {"x": {"mu": 0, "sigma": 1}}}, "parameters.x: unknown key 'mu'"),
        ({"parameters": {"x": {"min": 0, "max": 1, "distribution": "normal"}}}, "distribution: got 'normal'"),
        *(
            ({"parameters": {"x": entry}}, f"parameters.x: {message}")
            for entry, message in (
                ({"min": 0, "max": 1, "q": 0.25}, "q is a step of distribution q_uniform, got no distribution"),
                ({"min": 0, "max": 9, "q": 3, "distribution": "int_uniform"}, "q is a step of distribution q_uniform"),
                ({"min": 0.5, "max": 3.9, "distribution": "int_uniform"}, "got min 0.5 and max 3.9, wanted whole"),
                ({"min": 0, "max": 1, "distribution": "categorical"}, "got distribution categorical of min and max"),
                (
                    {"values": [1, 2], "distribution": "uniform"},
                    "got distribution uniform of values, wanted categorical",
                ),
                ({"value": 1, "values": [1, 2]}, "got value and values, wanted one of them"),
                ({"values": [1, 2], "max": 3}, "got values and max, wanted one of them"),
                ({"distribution": "uniform"}, "got neither value, values nor min and max"),
            )
        ),
        (
            {"parameters": {"x": {"min": 0, "max": 1, "q": 0, "distribution": "q_uniform"}}},
            "x.q: got 0, wanted above 0",
        ),
        ({"method": "grid"}, "a grid has values only, model.optim.lr has an interval"),
        (
            {"command": ["python", "train.py"]},
            "command: got python train.py, wanted medpretrain3d pretrain or finetune",
        ),
        ({"command": ["medpretrain3d", "finetune"]}, "wanted the word ${args} once"),
        ({"run_cap": 0}, "run_cap: got 0"),
        ({"name": "../up"}, "name"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_sweep(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "got"), [("", "None"), ("# of no keys", "None"), ("5", "5"), ("[method]", "['method']")]
)
def test_a_file_without_keys_is_one_line(tmp_path, text, got):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"sweep.yaml: got {got}, wanted the keys of a sweep")):
        read_sweep(path)
