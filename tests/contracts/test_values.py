"""Every argument of every class that a recipe or a file can name, given numbers and types that nobody meant."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import medpretrain3d
from finetune.datamodule import FinetuneData
from medpretrain3d import cli
from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.commands.numbers import Number
from medpretrain3d.configurable import Configurable, from_config, to_config
from medpretrain3d.detection import Detector, GIoULoss
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.engine.optimizer import OptimConfig
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig
from medpretrain3d.loading.case_labels import CaseLabelView
from medpretrain3d.objectives import Objective
from medpretrain3d.store.intensity import Window
from medpretrain3d.values import constructor
from pretrain.datamodule import PretrainData
from pretrain.probes import Probes
from tests.tiny import TINY_BACKBONES, tiny_backbone
from tests.tiny_detectors import ANCHORS, TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, tiny_objective

for module in pkgutil.walk_packages(medpretrain3d.__path__, "medpretrain3d."):
    importlib.import_module(module.name)

BAD_NUMBERS = [0, -1, 1, 2, -0.5, 0.5, 1.5, 3.7, 1e30, -1e30, 10**9, -(10**9), 2**31, 2**63, 10**40]
BAD_NUMBERS += [float("nan"), float("inf"), -float("inf")]
BAD_TYPES = ["", "x", "1", "nan", None, True, False, [], {}, [0], [[]], [1, 2], [1, 0, 2], [2, 1], [None], ["a"]]
BAD_TYPES += [[0.5] * 3, [0.9, 0.1], [10**9] * 3, [-1] * 3, [1] * 50, [[1, 1, 1]] * 9, [float("nan")] * 2]
BAD_TYPES += [{"a": 1}, {"class_path": "nowhere"}]
ANYTHING = st.sampled_from(BAD_NUMBERS + BAD_TYPES)


def below(cls: type) -> set[type]:
    """All subclasses in the library that are no bases only."""
    children = {child for one in type.__subclasses__(cls) for child in below(one)}
    bases = (Configurable, Backbone, TokenBackbone, Objective, Detector, DenseDetector)
    is_base = inspect.isabstract(cls) or cls in bases
    return children if is_base or not cls.__module__.startswith("medpretrain3d.") else {cls, *children}


@functools.cache
def tiny_backbones() -> list[Backbone]:
    return [tiny_backbone(name) for name in TINY_BACKBONES]


@functools.cache
def right_arguments(cls: type) -> dict[str, Any]:
    """Arguments that make a small object: those of the tiny examples, otherwise the least that is required."""
    if issubclass(cls, Backbone):
        return next(one._init_args for one in tiny_backbones() if type(one) is cls)
    if issubclass(cls, Objective) and cls in TINY_OBJECTIVES:
        return dict(tiny_objective(cls)._init_args)
    if cls in TINY_DETECTORS:
        return dict(tiny_detector(cls)._init_args)
    known: dict[str, Any] = {
        "backbone": tiny_backbone(),
        "num_classes": 2,
        "mask_ratio": 0.5,
        "mask_block": (8, 8, 8),
        "sizes": ANCHORS.sizes,
        "num_levels": 2,
        "box_loss": GIoULoss(),
        "score_threshold": 0.1,
        "nms_iou": 0.5,
        "candidates_per_image": 10,
        "detections_per_image": 10,
        "channels": [Window()],
        "table": "cases.csv",
        "name": "bone",
        "low": -900,
        "high": 400,
        "mean": -300 if cls.__name__ == "ForegroundZScore" else [0.0],
        "std": 200 if cls.__name__ == "ForegroundZScore" else [1.0],
    }
    needed = [p for p in list(constructor(cls).parameters.values())[1:] if p.default is p.empty and p.kind < 2]
    return {parameter.name: known[parameter.name] for parameter in needed}


CLASSES = sorted(below(Configurable), key=lambda cls: f"{cls.__module__}.{cls.__name__}")
CONFIGS: list[type] = [OptimConfig, InferenceConfig, RunConfig]


def options(cls: type) -> list[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in list(constructor(cls).parameters.items())[1:] if one.kind not in kinds]


def made_or_refused(cls: type, arguments: dict[str, Any]) -> Any:
    try:
        return cls(**arguments)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("cls", [*CLASSES, *CONFIGS], ids=lambda cls: cls.__name__)
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_any_value_makes_an_object_or_one_line(cls, data):
    names = options(cls)
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    arguments = {**right_arguments(cls), name: data.draw(ANYTHING)}
    made = made_or_refused(cls, arguments)
    if isinstance(made, str):
        assert "\n" not in made
        assert len(made) < 1000
    elif isinstance(made, Configurable) and not isinstance(made, Detector | Objective):
        from_config(to_config(made))  # what was taken can be written down and read again


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not CaseLabelView], ids=lambda cls: cls.__name__)
def test_right_arguments_make_an_object(cls):
    assert isinstance(cls(**right_arguments(cls)), cls)


STAGES = [PretrainData, FinetuneData, Probes]


@pytest.mark.parametrize("cls", STAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_any_value_of_a_stage_is_looked_at_before_its_store(cls, data):
    name = data.draw(st.sampled_from([name for name in options(cls) if name != "store"]))
    sizes = {} if cls is Probes else {"patch": (16, 16, 16), "batch_size": 1}
    arguments = {"store": "nowhere", **sizes, name: data.draw(ANYTHING)}
    with pytest.raises(UserError) as caught:
        cls(**arguments)
    assert "\n" not in str(caught.value)


def parsers() -> list[tuple[str, argparse.ArgumentParser]]:
    found = []
    for name in cli.COMMANDS:
        parser = argparse.ArgumentParser(name)
        importlib.import_module(f"medpretrain3d.commands.{name.replace('-', '_')}").add_arguments(parser)
        found.append((name, parser))
    return found


NUMBERS = [(name, parser, action) for name, parser in parsers() for action in parser._actions if action.type]


def test_every_number_of_every_command_has_a_range():
    assert [action.dest for _, _, action in NUMBERS if action.type in (int, float) and not action.choices] == []


@pytest.mark.parametrize(
    "text", ["-1e9", "-1", "nan", "inf", "-inf", "1e999", "99999999999999999999", "x", "", "1,5", "[1]"]
)
@pytest.mark.parametrize(
    ("name", "parser", "action"),
    [one for one in NUMBERS if isinstance(one[2].type, Number)],
    ids=lambda one: one if isinstance(one, str) else getattr(one, "dest", ""),
)
def test_a_number_out_of_range_is_refused_before_anything_is_read(name, parser, action, text, capsys):
    needed = []
    for other in parser._actions:
        if other.required and other is not action:
            needed += [*other.option_strings[-1:], "1" if isinstance(other.type, Number) else "nowhere"]
    given = [f"{action.option_strings[-1]}={text}"]
    if isinstance(action.nargs, int):
        given = [action.option_strings[-1], text, *["1"] * (action.nargs - 1)]
    try:
        code = cli.main([name, *needed, *given])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
