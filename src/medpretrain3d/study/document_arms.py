"""Arms, detectors and label budgets as a study's document writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import CLASS, composed, flattened, recipe_layers
from medpretrain3d.command_line.recipes import BASE
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import ALL, Arm, Budget, Detector
from medpretrain3d.study.document_recipes import START
from medpretrain3d.study.document_values import (
    Place,
    a_list,
    a_mapping,
    a_name,
    a_number,
    a_text,
    names_of,
    once,
    only_keys,
)

ARM = ("pretrain", "with", "init_from", "finetune", "steps", "labels", "predictions")
"""Keys of an arm."""


def arms_of(value: Any, data: Mapping[str, str], labels: Sequence[str], place: Place) -> tuple[Arm, ...]:
    """Return the arms, the baseline first.

    Args:
        value: of the document.
        data: recipe of each data set by its name.
        labels: names of the budgets.
        place: of the value.

    Raises:
        UserError: a key or value is none that can be meant, or two arms are the same.
    """
    entries = a_mapping(value, place, "names of arms, the baseline first, as {scratch: {}, mae: {pretrain: RECIPE}}")
    named = zip(names_of(entries, place), entries.values(), strict=True)
    arms = [_arm(name, entry, data, labels, place.at(name)) for name, entry in named]
    if arms[0].predictions:
        raise UserError(
            f"{place}: {arms[0].name} is the baseline and of another program; name an arm that is run first"
        )
    starts = [
        (arm.predictions, arm.pretrain, dict(arm.changes), arm.init_from, dict(arm.finetune), arm.steps) for arm in arms
    ]
    for number, start in enumerate(starts):
        if start in starts[:number]:
            raise UserError(f"{place}: {arms[starts.index(start)].name} and {arms[number].name} are the same; drop one")
    return tuple(arms)


def _arm(name: str, value: Any, data: Mapping[str, str], labels: Sequence[str], place: Place) -> Arm:
    entry = {} if value is None else a_mapping(value, place, "{}, {pretrain: RECIPE} or {init_from: CHECKPOINT}", 0)
    only_keys(entry, ARM, place)
    if "predictions" in entry:
        if len(entry) > 1:
            raise UserError(f"{place}: is of another program, nothing of it is run; take all but predictions away")
        return Arm(name, predictions=_predictions(entry["predictions"], data, place.at("predictions")))
    if "pretrain" in entry and "init_from" in entry:
        raise UserError(f"{place}: has pretrain and init_from; an arm begins from one of them")
    if "with" in entry and "pretrain" not in entry:
        raise UserError(f"{place}: `with` changes a recipe of pretrain, which it does not name; say finetune instead")
    options = _options(entry.get("finetune", {}), place.at("finetune"))
    start = next((key for key in ("pretrain", "init_from") if key in entry), None)
    if start and START in options:
        raise UserError(f"{place}: has {start} and finetune: {START}; an arm begins from one of them")
    return Arm(
        name,
        _pretraining(entry["pretrain"], data, place.at("pretrain")) if "pretrain" in entry else {},
        _options(entry.get("with", {}), place.at("with")),
        a_text(entry["init_from"], place.at("init_from")) if "init_from" in entry else None,
        options,
        a_number(entry.get("steps", 1), place.at("steps"), above=0),
        _some(entry.get("labels"), labels, place.at("labels")),
    )


def _pretraining(value: Any, data: Mapping[str, str], place: Place) -> dict[str, tuple[str, ...]]:
    """Return the recipes of each data set: those for all, or those by the name of each."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(data, _in_turn(value, place))
    entries = a_mapping(value, place, "a recipe, or that of each data set, as {openkbp: openkbp, phantom: demo}")
    only_keys(entries, tuple(data), place)
    return {str(name): _in_turn(recipes, place.at(name)) for name, recipes in entries.items()}


def _in_turn(value: Any, place: Place) -> tuple[str, ...]:
    """Return one recipe, or several of which each goes on from the encoder of the one before."""
    is_several = isinstance(value, list)
    recipes = once(a_list(value, place, "recipes in turn, as [spark, detector]"), place) if is_several else [value]
    return tuple(str(place.recipe(recipe, "pretrain")) for recipe in recipes)


def _predictions(value: Any, data: Mapping[str, str], place: Place) -> dict[str, str]:
    """Return where the results on each data set are: one place where there is one data set, or one by name."""
    if not isinstance(value, Mapping) and len(data) == 1:
        return dict.fromkeys(data, a_text(value, place))
    entries = a_mapping(value, place, "where the results on each data set are, as {openkbp: FOLDER}")
    only_keys(entries, tuple(data), place)
    return {str(name): a_text(one, place.at(name)) for name, one in entries.items()}


def _some(value: Any, known: Sequence[str], place: Place) -> tuple[str, ...] | None:
    """Return which of some names are meant; None for all."""
    if value is None:
        return None
    names = [str(one) for one in a_list(value, place, f"some of {', '.join(known)}")]
    for name in names:
        if name not in known:
            raise UserError(f"{place}: got {name}, wanted some of {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(once(names, place))


def _options(value: Any, place: Place) -> dict[str, Any]:
    """Return options of a recipe by keys with dots; the run's place and seed are the study's affair."""
    options = dict(_dotted(a_mapping(value, place, "options of a recipe, {key: value}", 0)))
    for key in options:
        if key.partition(".")[0] in ("run", "seed_everything") or key in ("data.seed", "data.label_seed", BASE):
            raise UserError(f"{place}: {key} is set by the study itself; take it away")
    return options


def _dotted(options: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield options by keys with dots, however they are written: as these, or as the tree that a recipe is."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value and CLASS not in value:
            yield from ((f"{key}.{inner}", one) for inner, one in _dotted(value))
        else:
            yield str(key), value


def detectors_of(
    value: Any, data: Mapping[str, str], arms: Sequence[str], labels: Sequence[str], place: Place
) -> tuple[Detector, ...]:
    """Return the detectors; that of the data sets' recipes where none is named. Arguments are as in `arms_of`.

    Raises:
        UserError: a key or value is none that can be meant, or there is no recipe of one.
    """
    if value is None:
        return (Detector("", data),)
    if isinstance(value, Mapping):
        entries = a_mapping(value, place, "names of detectors, each {recipes: {DATA: RECIPE}, with: {key: value}}")
        named = zip(names_of(entries, place), entries.values(), strict=True)
        return tuple(_detector(name, one, data, arms, labels, place.at(name)) for name, one in named)
    names = [a_name(name, place) for name in a_list(value, place, "names of detectors, as [retina_unet, fcos]")]
    return tuple(
        Detector(name, {key: _recipe_of(name, recipe, place.at(name)) for key, recipe in data.items()})
        for name in once(names, place)
    )


def _detector(
    name: str, value: Any, data: Mapping[str, str], arms: Sequence[str], labels: Sequence[str], place: Place
) -> Detector:
    entry = {} if value is None else a_mapping(value, place, "{recipes: {DATA: RECIPE}, with: {key: value}}", 0)
    only_keys(entry, ("recipes", "with", "data", "arms", "labels"), place)
    given = a_mapping(entry.get("recipes", {}), place.at("recipes"), "the recipe of each data set", 0)
    only_keys(given, tuple(data), place.at("recipes"))
    inner = place.at("recipes")
    recipes = {key: str(inner.at(key).recipe(given[key], "finetune")) if key in given else data[key] for key in data}
    return Detector(
        name,
        recipes,
        _options(entry.get("with", {}), place.at("with")),
        _some(entry.get("data"), tuple(data), place.at("data")),
        _some(entry.get("arms"), arms, place.at("arms")),
        _some(entry.get("labels"), labels, place.at("labels")),
    )


def _recipe_of(detector: str, recipe: str, place: Place) -> str:
    """Return the recipe of a detector beside that of a data set: `openkbp_fcos.yaml`, or the recipe itself if it is."""
    beside = Path(recipe).with_name(f"{Path(recipe).stem}_{detector}.yaml")
    if beside.is_file():
        return str(beside)
    options = flattened(composed(recipe_layers(Path(recipe), "finetune")))
    own = str(options.get("model.detector.class_path") or options.get("model.detector") or "").rpartition(".")[2]
    if re.sub(r"[^a-z0-9]", "", detector.lower()) == own.lower():
        return recipe
    raise UserError(
        f"{place}: no recipe of it: {recipe} is of {own or 'no detector'}, and there is no {beside.name} beside it; "
        f"write that, or name one as detectors: {{{detector}: {{recipes: {{DATA: RECIPE}}}}}}"
    )


def budgets_of(value: Any, place: Place) -> tuple[Budget, ...]:
    """Return the label budgets.

    Raises:
        UserError: one is no number of cases, no share and not `all`, or there twice.
    """
    if not isinstance(value, Mapping):
        counts = a_list(value, place, "numbers of labeled cases, as [1, 8, all]")
        for count in counts:
            _budget(count, place.at(count))
        value = dict.fromkeys(once(counts, place))
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
