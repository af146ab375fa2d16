"""The document of a study: what is compared, on which data, how often, and what was expected beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medpretrain3d.command_line.composition import overlaid
from medpretrain3d.command_line.recipes import BASE, read_recipe, with_bases
from medpretrain3d.errors import UserError
from medpretrain3d.home import from_home
from medpretrain3d.study.design import ALL, Arm, Budget, Study
from medpretrain3d.study.document_arms import arms_of, budgets_of, detectors_of
from medpretrain3d.study.document_declaration import declaration_of
from medpretrain3d.study.document_jobs import preparation_of, resources_of
from medpretrain3d.study.document_recipes import check_recipes
from medpretrain3d.study.document_values import (
    Place,
    a_count,
    a_list,
    a_mapping,
    a_name,
    a_number,
    a_text,
    names_of,
    once,
    only_keys,
)

KEYS = (
    *("name", "root", "data", "arms", "detectors", "labels", "steps", "seeds", "pretrain_seeds", "folds"),
    *("primary", "delta", "hypotheses", "prepare", "resources", "results"),
)
"""Keys of a document."""


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study from its document, on top of its `base`.

    Args:
        path: YAML, see `docs/howto/study.md`.
        changes: values of keys of the document that take the place of its own.

    Raises:
        UserError: names the file and the first key that is unknown, missing, or of another kind than wanted, or a
            recipe says otherwise, see `check_recipes`.
    """
    layers = [read_recipe(one) for one in with_bases(path, "study")]
    document: dict[str, Any] = {}
    for layer in [*layers, changes or {}]:
        document = overlaid(document, layer)
    document.pop(BASE, None)
    study = study_of(document, str(path))
    check_recipes(study, Place(str(path)))
    return study


def study_of(document: Mapping[str, Any], source: str) -> Study:
    """Return the study that plain data describe.

    Raises:
        UserError: see `read_study`.
    """
    place = Place(source)
    steps = document.get("steps", [1])
    if steps == [] or (isinstance(steps, list) and not all(isinstance(one, int | float) for one in steps)):
        raise UserError(
            f"{source}: is a list of steps, the form of earlier versions; write data, arms, labels and seeds instead "
            "(docs/howto/study.md), or run its commands one by one; shares of the steps are numbers, as [0.25, 0.5, 1]"
        )
    only_keys(document, KEYS, place, required=("name", "data", "arms"))
    data = _data(document["data"], place.at("data"))
    labels = budgets_of(document.get("labels", [ALL]), place.at("labels"))
    budgets = [budget.name for budget in labels]
    arms = arms_of(document["arms"], data, budgets, place.at("arms"))
    names = [arm.name for arm in arms]
    shares = _steps(steps, arms, place.at("steps"))
    detectors = detectors_of(document.get("detectors"), data, names, budgets, place.at("detectors"))
    study = Study(
        name=a_name(document["name"], place.at("name")),
        root=from_home(a_text(document.get("root", "runs"), place.at("root"))),
        data=tuple(data),
        arms=arms,
        detectors=detectors,
        labels=labels,
        steps=shares,
        seeds=_seeds(document.get("seeds", 1), place.at("seeds")),
        pretrain_seeds=a_count(document.get("pretrain_seeds", 1), place.at("pretrain_seeds")),
        folds=_folds(document.get("folds"), place.at("folds")),
        declaration=declaration_of(document, arms, labels, shares, tuple(data), detectors, place),
        prepare=preparation_of(document.get("prepare", {}), place.at("prepare")),
        resources=resources_of(document.get("resources", {}), place.at("resources")),
        results=from_home(a_text(document["results"], place.at("results"))) if "results" in document else None,
    )
    _check_baseline(study.baseline, labels, place.at("arms"))
    return study


def _data(value: Any, place: Place) -> dict[str, str]:
    entries = a_mapping(value, place, "names of data sets and the recipe of each, as {openkbp: openkbp}")
    named = zip(names_of(entries, place), entries.values(), strict=True)
    return {name: str(place.at(name).recipe(recipe, "finetune")) for name, recipe in named}


def _check_baseline(baseline: Arm, labels: Sequence[Budget], place: Place) -> None:
    if baseline.labels is not None and len(baseline.labels) < len(labels):
        raise UserError(
            f"{place}: {baseline.name} is the baseline, so it is run with every budget; take its labels away"
        )


def _steps(value: Any, arms: Sequence[Arm], place: Place) -> tuple[float, ...]:
    """Return shares of the steps, rising."""
    example = "shares of the steps, as [0.25, 0.5, 1]"
    shares = once([a_number(one, place, above=0, at_most=1) for one in a_list(value, place, example)], place)
    if 1 not in shares:
        raise UserError(
            f"{place}: got {value}, without 1; wanted {example}: all of them are what others are held against"
        )
    own = [arm.name for arm in arms if arm.steps != 1]
    if len(shares) > 1 and own:
        raise UserError(
            f"{place}: {own[0]} has steps of its own, and the study has shares for every arm; drop one of them"
        )
    return tuple(sorted(shares))


def _seeds(value: Any, place: Place) -> tuple[int, ...]:
    if isinstance(value, list):
        seeds = [a_count(one, place, least=0) for one in a_list(value, place, "seeds")]
        return tuple(once(seeds, place))
    return tuple(range(a_count(value, place, "how many seeds, or a list of them")))


def _folds(value: Any, place: Place) -> tuple[int, ...] | Literal["all"] | None:
    if value is None or value == ALL:
        return value  # type: ignore[no-any-return]  # one of the two
    folds = [a_count(one, place, least=0) for one in a_list(value, place, f"{ALL}, or a list of folds from 0")]
    return tuple(once(folds, place))
