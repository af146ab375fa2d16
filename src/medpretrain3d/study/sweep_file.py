"""The file of a sweep, in the form of wandb's: which options are searched, how, and by which number they are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

from medpretrain3d.command_line.recipes import load_recipe
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.study.document_values import Place, a_list, a_mapping, a_name, a_text, only_keys

KEYS = ("program", "method", "metric", "parameters", "command", "name", "description", "project", "entity", "run_cap")
METHODS = ("bayes", "random", "grid")
STAGES = ("pretrain", "finetune")
ARGUMENTS = "${args}"
DISTRIBUTIONS = ("constant", "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform_values")
FORMS = {"value": ("value",), "values": ("values",), "min and max": ("min", "max")}
"""Ways to say what an option may be, and their keys."""
OF_FORMS = {"value": DISTRIBUTIONS[:1], "values": DISTRIBUTIONS[1:2], "min and max": DISTRIBUTIONS[2:]}
_MACROS = {"${env}": (), "${interpreter}": (), "${program}": ("medpretrain3d",)}
_ADVICE = "write it as https://docs.wandb.ai describes sweeps, see configs/sweeps"

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Plain, ...]


@dataclass(frozen=True)
class Interval:
    """A number between two ends, both included."""

    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False
    step: float | None = None


@dataclass(frozen=True)
class SweepFile:
    """A sweep as its file states it, see `read_sweep`."""

    name: str
    method: Literal["bayes", "random", "grid"]
    metric: str
    """Column of a run's `metrics.csv`; its last value counts."""
    is_maximized: bool
    parameters: Mapping[str, Choice | Interval]
    """By options of the stage."""
    stage: Literal["pretrain", "finetune"]
    words: tuple[str, ...]
    """Words of the stage's command line, `ARGUMENTS` where those of a trial belong."""
    run_cap: int | None = None
    """Trials at most."""

    @property
    def num_combinations(self) -> int | None:
        """Trials of a grid; None where the values of the options are without number."""
        if self.method != "grid":
            return None
        return math.prod(len(one.values) for one in self.parameters.values() if isinstance(one, Choice))

    def combination(self, number: int) -> dict[str, Plain]:
        """Return the values of one trial of a grid, counted from 0."""
        values = [one.values for one in self.parameters.values() if isinstance(one, Choice)]
        return dict(zip(self.parameters, next(islice(product(*values), number, None)), strict=True))

    def command(self, values: Mapping[str, Plain]) -> list[str]:
        """Return the words of the stage with the values of a trial, written as wandb's agent writes them."""
        options = [f"--{name}={value}" for name, value in values.items()]
        return [one for word in self.words for one in (options if word == ARGUMENTS else [word])]


def read_sweep(path: Path, name: str | None = None) -> SweepFile:
    """Read a sweep.

    Args:
        path: YAML in the form of wandb's.
        name: of its folder, instead of the one that the file says or has.

    Raises:
        UserError: names the file and the first key that is unknown, missing, or of another kind than wanted; or what
            wandb knows and is not done offline.
    """
    place = Place(str(path))
    document = a_mapping(
        read_yaml(path, _ADVICE, load_recipe), place, "the keys of a sweep, as those in configs/sweeps"
    )
    only_keys(document, KEYS, place, required=("method", "metric", "parameters", "command"))
    method = _one_of(document["method"], METHODS, place.at("method"))
    metric = a_mapping(document["metric"], place.at("metric"), "{name: val/mAP, goal: maximize}")
    only_keys(metric, ("name", "goal"), place.at("metric"), required=("name",))
    goal = _one_of(metric.get("goal", "minimize"), ("maximize", "minimize"), place.at("metric.goal"))
    entries = a_mapping(document["parameters"], place.at("parameters"), "options of the stage, as model.optim.lr")
    parameters = {name: _parameter(entry, place.at(f"parameters.{name}")) for name, entry in entries.items()}
    if method == "grid" and (free := [name for name, one in parameters.items() if isinstance(one, Interval)]):
        raise UserError(f"{place.at('parameters')}: a grid has values only, {free[0]} has an interval; list values")
    words = [str(word) for word in a_list(document["command"], place.at("command"), "words, as in configs/sweeps")]
    stage, rest = _stage_of([part for word in words for part in _MACROS.get(word, (word,))], place.at("command"))
    cap = document.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UserError(f"{place.at('run_cap')}: got {cap!r}, wanted a number of trials")
    return SweepFile(
        name=a_name(name or document.get("name", path.stem), place.at("name")),
        method=method,
        metric=a_text(metric["name"], place.at("metric.name")),
        is_maximized=goal == "maximize",
        parameters=parameters,
        stage=stage,
        words=tuple(rest),
        run_cap=cap,
    )


def _stage_of(words: Sequence[str], place: Place) -> tuple[Any, Sequence[str]]:
    if tuple(words[:1]) != ("medpretrain3d",) or len(words) < 2 or words[1] not in STAGES:
        raise UserError(
            f"{place}: got {' '.join(words[:2])}, wanted medpretrain3d {' or '.join(STAGES)} and its options"
        )
    if words.count(ARGUMENTS) != 1:
        raise UserError(f"{place}: wanted the word {ARGUMENTS} once, where the options of a trial belong")
    return words[1], words[2:]


def _parameter(entry: Any, place: Place) -> Choice | Interval:
    known = a_mapping(entry, place, "{values: [...]}, {value: ...} or {min: ..., max: ...}")
    only_keys(known, ("value", "values", "min", "max", "distribution", "q", "probabilities"), place)
    kind = known.get("distribution")
    if kind is not None:
        _one_of(kind, DISTRIBUTIONS, place.at("distribution"))
    if "probabilities" in known:
        raise UserError(f"{place.at('probabilities')}: values are drawn alike; leave them out")
    _refuse_unread(known, kind, place)
    if "value" in known:
        return Choice((_plain(known["value"]),))
    if "values" in known:
        return Choice(tuple(_plain(one) for one in a_list(known["values"], place.at("values"), "values")))
    low, high = (_number(known, end, place) for end in ("min", "max"))
    if not low < high:
        raise UserError(f"{place}: got min {low} and max {high}, wanted min below max")
    is_whole = kind == "int_uniform" or (
        kind is None and isinstance(known["min"], int) and isinstance(known["max"], int)
    )
    if kind == "int_uniform" and not (isinstance(known["min"], int) and isinstance(known["max"], int)):
        raise UserError(f"{place}: got min {low} and max {high}, wanted whole numbers, which int_uniform draws")
    is_log = kind == "log_uniform_values"
    if is_log and low <= 0:
        raise UserError(f"{place}: got min {low}, wanted above 0, on a logarithmic scale")
    step = _number(known, "q", place) if kind == "q_uniform" else None
    if step is not None and step <= 0:
        raise UserError(f"{place.at('q')}: got {step}, wanted above 0: the step between values")
    return Interval(low, high, is_log, is_whole, step)


def _refuse_unread(known: Mapping[str, Any], kind: str | None, place: Place) -> None:
    """Refuse keys that would be read by nobody: two forms at once, a distribution of another form, a step of none.

    Raises:
        UserError: names them.
    """
    given = [form for form, keys in FORMS.items() if any(key in known for key in keys)]
    if not given:
        raise UserError(f"{place}: got neither value, values nor min and max; give one of them")
    if len(given) > 1:
        named = [key for keys in FORMS.values() for key in keys if key in known]
        raise UserError(f"{place}: got {' and '.join(named)}, wanted one of them; take the others away")
    wanted = OF_FORMS[given[0]]
    if kind is not None and kind not in wanted:
        raise UserError(f"{place}: got distribution {kind} of {given[0]}, wanted {' or '.join(wanted)}, or none named")
    if "q" in known and kind != "q_uniform":
        got = "no distribution" if kind is None else kind
        raise UserError(f"{place}: q is a step of distribution q_uniform, got {got}; name that, or take q away")


def _number(known: Mapping[str, Any], key: str, place: Place) -> float:
    value = known.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{place.at(key)}: got {value!r}, wanted a number")
    return value


def _plain(value: Any) -> Plain:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _one_of(value: Any, known: Sequence[str], place: Place) -> Any:
    if value not in known:
        raise UserError(f"{place}: got {value!r}, wanted {', '.join(known)}{did_you_mean(str(value), known)}")
    return value
