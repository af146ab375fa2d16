"""The document of a study: what is compared, on which data, how often, and what was expected beforehand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from medpretrain3d.command_line.composition import composed, flattened, overlaid, recipe_layers
from medpretrain3d.command_line.recipes import BASE, read_recipe, with_bases
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.statistics.hypotheses import Hypothesis, parse_hypothesis
from medpretrain3d.study.document_values import (
    Place,
    a_count,
    a_list,
    a_mapping,
    a_name,
    a_number,
    a_text,
    only_keys,
)

ALL = "all"
METRICS = ("mAP", "AP10", "AP50", "FROC")
"""Names of what a study may be judged by, as the report's table has them."""
COMMANDS = ("phantom", "prepare", "split")
"""Commands that make a store."""
KINDS = ("prepare", "pretrain", "finetune")
NUM_FOLDS = 5
"""Of a store that is not there yet: what `medpretrain3d prepare` and `split` deal out."""


@dataclass(frozen=True)
class Arm:
    """One way to begin: from scratch where it names nothing."""

    name: str
    pretrain: str | None = None
    """Recipe of stage 1."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Options of that recipe, keys with dots (`with`)."""
    init_from: str | None = None
    """A checkpoint of others instead."""
    finetune: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fine-tuning of this arm alone."""


@dataclass(frozen=True)
class Detector:
    """One detector, trained on every data set."""

    name: str
    recipes: Mapping[str, str]
    """Recipe of each data set by its name."""
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """How many training cases are labeled."""

    name: str
    options: Mapping[str, Any]
    """Those of `data` that say it."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Further options for runs with so few labels, such as fewer steps."""


@dataclass(frozen=True)
class Resources:
    """Resources that one job of a kind asks the engine for; None leaves it to the recipe and the machine."""

    cores: int | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Study:
    """A study as its document states it, see `read_study`."""

    name: str
    root: Path
    data: tuple[str, ...]
    arms: tuple[Arm, ...]
    """The baseline first."""
    detectors: tuple[Detector, ...]
    labels: tuple[Budget, ...]
    seeds: tuple[int, ...]
    pretrain_seeds: int
    """Encoders per arm; seed s of the fine-tuning begins from the encoder of seed s modulo this number."""
    folds: tuple[int, ...] | Literal["all"] | None
    """Of every store; None for its named splits."""
    metric: str
    primary_labels: str
    """Name of the budget that the verdicts are about."""
    delta: float | None
    """A difference of the primary metric that counts as none."""
    hypotheses: tuple[Hypothesis, ...]
    prepare: Mapping[str, tuple[str, ...]]
    """Commands that make a store, by its folder."""
    resources: Mapping[str, Resources]

    @property
    def folder(self) -> Path:
        """Where all of it is written."""
        return self.root / self.name

    @property
    def baseline(self) -> Arm:
        """The arm that the others are compared with."""
        return self.arms[0]


KEYS = (
    *("name", "root", "data", "arms", "detectors", "labels", "seeds", "pretrain_seeds", "folds"),
    *("primary", "delta", "hypotheses", "prepare", "resources"),
)
"""Keys of a document."""


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study from its document, on top of its `base`.

    Args:
        path: YAML, see `docs/howto/study.md`.
        changes: values of keys of the document that take the place of its own.

    Raises:
        UserError: names the file and the first key that is unknown, missing, or of another kind than wanted.
    """
    layers = [read_recipe(one) for one in with_bases(path, "study")]
    document: dict[str, Any] = {}
    for layer in [*layers, changes or {}]:
        document = overlaid(document, layer)
    document.pop(BASE, None)
    return study_of(document, str(path))


def study_of(document: Mapping[str, Any], source: str) -> Study:
    """Return the study that plain data describe.

    Raises:
        UserError: see `read_study`.
    """
    place = Place(source)
    if "steps" in document:
        raise UserError(
            f"{source}: is a list of steps, the form of earlier versions; write data, arms, labels and seeds instead "
            "(docs/howto/study.md), or run its commands one by one"
        )
    only_keys(document, KEYS, place, required=("name", "data", "arms"))
    data = _data(document["data"], place.at("data"))
    arms = _arms(document["arms"], place.at("arms"))
    labels = _labels(document.get("labels", [ALL]), place.at("labels"))
    metric, primary_labels = _primary(document.get("primary"), labels, place.at("primary"))
    delta = document.get("delta")
    return Study(
        name=a_name(document["name"], place.at("name")),
        root=Path(a_text(document.get("root", "runs"), place.at("root"))),
        data=tuple(data),
        arms=arms,
        detectors=_detectors(document.get("detectors"), data, place.at("detectors")),
        labels=labels,
        seeds=_seeds(document.get("seeds", 1), place.at("seeds")),
        pretrain_seeds=a_count(document.get("pretrain_seeds", 1), place.at("pretrain_seeds")),
        folds=_folds(document.get("folds"), place.at("folds")),
        metric=metric,
        primary_labels=primary_labels,
        delta=None if delta is None else a_number(delta, place.at("delta"), above=0, at_most=1),
        hypotheses=_hypotheses(document.get("hypotheses", []), [arm.name for arm in arms], place.at("hypotheses")),
        prepare=_prepare(document.get("prepare", {}), place.at("prepare")),
        resources=_resources(document.get("resources", {}), place.at("resources")),
    )


def _data(value: Any, place: Place) -> dict[str, str]:
    entries = a_mapping(value, place, "names of data sets and the recipe of each, as {openkbp: openkbp}")
    return {
        a_name(name, place.at(name)): str(place.at(name).recipe(recipe, "finetune")) for name, recipe in entries.items()
    }


def _arms(value: Any, place: Place) -> tuple[Arm, ...]:
    entries = a_mapping(value, place, "names of arms, the baseline first, as {scratch: {}, mae: {pretrain: RECIPE}}")
    arms = [_arm(a_name(name, place.at(name)), entry, place.at(name)) for name, entry in entries.items()]
    starts = [(arm.pretrain, dict(arm.changes), arm.init_from, dict(arm.finetune)) for arm in arms]
    for number, start in enumerate(starts):
        if start in starts[:number]:
            raise UserError(f"{place}: {arms[starts.index(start)].name} and {arms[number].name} are the same; drop one")
    return tuple(arms)


def _arm(name: str, value: Any, place: Place) -> Arm:
    entry = {} if value is None else a_mapping(value, place, "{}, {pretrain: RECIPE} or {init_from: CHECKPOINT}", 0)
    only_keys(entry, ("pretrain", "with", "init_from", "finetune"), place)
    if "pretrain" in entry and "init_from" in entry:
        raise UserError(f"{place}: has pretrain and init_from; an arm begins from one of them")
    if "with" in entry and "pretrain" not in entry:
        raise UserError(f"{place}: `with` changes a recipe of pretrain, which it does not name; say finetune instead")
    pretrain = str(place.at("pretrain").recipe(entry["pretrain"], "pretrain")) if "pretrain" in entry else None
    return Arm(
        name,
        pretrain,
        _options(entry.get("with", {}), place.at("with")),
        a_text(entry["init_from"], place.at("init_from")) if "init_from" in entry else None,
        _options(entry.get("finetune", {}), place.at("finetune")),
    )


def _options(value: Any, place: Place) -> dict[str, Any]:
    """Return options of a recipe; the run's place and seed are the study's affair."""
    options = {str(key): one for key, one in a_mapping(value, place, "options of a recipe, {key: value}", 0).items()}
    for key in options:
        if key.partition(".")[0] in ("run", "seed_everything") or key in ("data.seed", BASE):
            raise UserError(f"{place}: {key} is set by the study itself; take it away")
    return options


def _detectors(value: Any, data: Mapping[str, str], place: Place) -> tuple[Detector, ...]:
    if value is None:
        return (Detector("", data),)
    if isinstance(value, Mapping):
        entries = a_mapping(value, place, "names of detectors, each {recipes: {DATA: RECIPE}, with: {key: value}}")
        return tuple(
            _detector(a_name(name, place.at(name)), one, data, place.at(name)) for name, one in entries.items()
        )
    names = [a_name(name, place) for name in a_list(value, place, "names of detectors, as [retina_unet, fcos]")]
    return tuple(
        Detector(name, {key: _recipe_of(name, recipe, place.at(name)) for key, recipe in data.items()})
        for name in _once(names, place)
    )


def _detector(name: str, value: Any, data: Mapping[str, str], place: Place) -> Detector:
    entry = {} if value is None else a_mapping(value, place, "{recipes: {DATA: RECIPE}, with: {key: value}}", 0)
    only_keys(entry, ("recipes", "with"), place)
    given = a_mapping(entry.get("recipes", {}), place.at("recipes"), "the recipe of each data set", 0)
    only_keys(given, tuple(data), place.at("recipes"))
    inner = place.at("recipes")
    recipes = {key: str(inner.at(key).recipe(given[key], "finetune")) if key in given else data[key] for key in data}
    return Detector(name, recipes, _options(entry.get("with", {}), place.at("with")))


def _recipe_of(detector: str, recipe: str, place: Place) -> str:
    """Return the recipe of a detector beside that of a data set: `openkbp_fcos.yaml`, or the recipe itself if it is."""
    beside = Path(recipe).with_name(f"{Path(recipe).stem}_{detector}.yaml")
    if beside.is_file():
        return str(beside)
    named = flattened(composed(recipe_layers(Path(recipe), "finetune"))).get("model.detector.class_path")
    own = str(named or "")
    if re.sub(r"[^a-z0-9]", "", detector.lower()) == own.lower():
        return recipe
    raise UserError(
        f"{place}: no recipe of it: {recipe} is of {own or 'no detector'}, and there is no {beside.name} beside it; "
        f"write that, or name one as detectors: {{{detector}: {{recipes: {{DATA: RECIPE}}}}}}"
    )


def _labels(value: Any, place: Place) -> tuple[Budget, ...]:
    if not isinstance(value, Mapping):
        counts = a_list(value, place, "numbers of labeled cases, as [1, 8, all]")
        for count in counts:
            _budget(count, place.at(count))
        value = dict.fromkeys(_once(counts, place))
    entries = a_mapping(value, place, "numbers of labeled cases, as {8: {with: {trainer.max_steps: 160}}, all: {}}")
    budgets = []
    for count, entry in entries.items():
        inner = place.at(str(count))
        options = {} if entry is None else a_mapping(entry, inner, "{with: {key: value}}", 0)
        only_keys(options, ("with",), inner)
        budgets.append(Budget(str(count), _budget(count, inner), _options(options.get("with", {}), inner.at("with"))))
    return tuple(budgets)


def _budget(count: Any, place: Place) -> dict[str, Any]:
    if count == ALL:
        return {}
    if isinstance(count, float) and 0 < count < 1:
        return {"data.label_fraction": count}
    if isinstance(count, int) and not isinstance(count, bool) and count >= 1:
        return {"data.num_train_cases": count}
    raise UserError(f"{place}: got {count!r}, wanted a number of cases, a share between 0 and 1, or {ALL}")


def _seeds(value: Any, place: Place) -> tuple[int, ...]:
    if isinstance(value, list):
        seeds = [a_count(one, place, least=0) for one in a_list(value, place, "seeds")]
        return tuple(_once(seeds, place))
    return tuple(range(a_count(value, place, "how many seeds, or a list of them")))


def _folds(value: Any, place: Place) -> tuple[int, ...] | Literal["all"] | None:
    if value is None or value == ALL:
        return value  # type: ignore[no-any-return]  # one of the two
    folds = [a_count(one, place, least=0) for one in a_list(value, place, f"{ALL}, or a list of folds from 0")]
    return tuple(_once(folds, place))


def _primary(value: Any, labels: Sequence[Budget], place: Place) -> tuple[str, str]:
    names = [budget.name for budget in labels]
    entry = {} if value is None else a_mapping(value, place, "{metric: mAP, labels: all}")
    only_keys(entry, ("metric", "labels"), place)
    metric = a_text(entry.get("metric", METRICS[0]), place.at("metric"))
    if metric not in METRICS:
        hint = did_you_mean(metric, METRICS)
        raise UserError(f"{place.at('metric')}: got {metric!r}, wanted one of {', '.join(METRICS)}{hint}")
    wanted = str(entry.get("labels", ALL if ALL in names else names[-1]))
    if wanted not in names:
        raise UserError(f"{place.at('labels')}: got {wanted}, which is none of the study's labels: {', '.join(names)}")
    return metric, wanted


def _hypotheses(value: Any, arms: Sequence[str], place: Place) -> tuple[Hypothesis, ...]:
    found = []
    for text in a_list(value, place, "sentences such as [mae > scratch]", least=0):
        try:
            one = parse_hypothesis(str(text))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        for name in (one.arm, one.other):
            if name not in arms:
                hint = did_you_mean(name, arms) or f"; arms: {', '.join(arms)}"
                raise UserError(f"{place}: '{text}': the study has no arm '{name}'{hint}")
        found.append(one)
    return tuple(found)


def _prepare(value: Any, place: Place) -> dict[str, tuple[str, ...]]:
    stores = {}
    for store, lines in a_mapping(value, place, "stores and the commands that make each", 0).items():
        inner = place.at(str(store))
        commands = [lines] if isinstance(lines, str) else a_list(lines, inner, "commands of medpretrain3d")
        for line in commands:
            word = a_text(line, inner).split()[0]
            if word not in COMMANDS:
                hint = did_you_mean(word, COMMANDS)
                raise UserError(
                    f"{inner}: got '{word}', wanted a command that makes a store: {', '.join(COMMANDS)}{hint}"
                )
        stores[str(store)] = tuple(commands)
    for one, other in pairwise(sorted(stores)):
        if other.startswith(one.rstrip("/") + "/"):
            raise UserError(f"{place}: {other} lies in {one}; give each store a folder of its own")
    return stores


def _resources(value: Any, place: Place) -> dict[str, Resources]:
    found = {}
    entries = a_mapping(value, place, "{finetune: {cores: 4, gpus: 1, memory_gb: 16, hours: 4}}", 0)
    only_keys(entries, KINDS, place)
    for kind, entry in entries.items():
        inner = place.at(kind)
        given = a_mapping(entry, inner, "{cores: 4, gpus: 1, memory_gb: 16, hours: 4}")
        only_keys(given, ("cores", "gpus", "memory_gb", "hours"), inner)
        found[kind] = Resources(
            cores=a_count(given["cores"], inner.at("cores")) if "cores" in given else None,
            gpus=a_count(given["gpus"], inner.at("gpus"), least=0) if "gpus" in given else None,
            memory_gb=a_number(given["memory_gb"], inner.at("memory_gb"), above=0) if "memory_gb" in given else None,
            hours=a_number(given["hours"], inner.at("hours"), above=0) if "hours" in given else None,
        )
    return found


def _once(values: Sequence[Any], place: Place) -> list[Any]:
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise UserError(f"{place}: {twice} is there twice; keep one of them")
    return list(values)
