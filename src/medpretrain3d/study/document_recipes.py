"""Whether the recipes that a study names leave open what its document says: where arms begin, and how many labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import composed, flattened, nested, recipe_layers
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import ALL, Detector, Study
from medpretrain3d.study.document_values import Place

START = "model.init_from"
"""Option of fine-tuning that names the weights to begin from."""
BUDGETS: Mapping[str, Any] = {"data.num_train_cases": None, "data.label_fraction": 1.0}
"""Options that say how many training cases are labeled, and the value of each with which it limits nothing."""


def check_recipes(study: Study, place: Place) -> None:
    """Refuse recipes of fine-tuning by which an arm or budget would be another than the document calls it.

    Args:
        study: as its document states it.
        place: of the document.

    Raises:
        UserError: an arm is from scratch and its recipe begins from weights, the budget is all labels and the recipe
            has a smaller one, or a recipe cannot be read.
    """
    for data in study.data:
        for detector in study.detectors:
            options = _options(detector, data)
            _check_start(study, data, detector, options.get(START), place.at("arms"))
            _check_budget(study, data, detector, options, place.at("labels"))


def _options(detector: Detector, data: str) -> dict[str, Any]:
    layers = recipe_layers(Path(detector.recipes[data]), "finetune")
    return flattened(composed([*layers, nested(detector.changes)]))


def _check_start(study: Study, data: str, detector: Detector, start: Any, place: Place) -> None:
    for arm in study.arms:
        is_run = any(study.is_run(arm, data, detector, budget.name) for budget in study.labels)
        if start and is_run and not (arm.pretrain or arm.init_from or START in arm.finetune):
            raise UserError(
                f"{place.at(arm.name)}: is from scratch, and the recipe of {data} begins from {start} ({START}); take "
                f"that out of the recipe, or say init_from: {start} of the arm"
            )


def _check_budget(study: Study, data: str, detector: Detector, options: Mapping[str, Any], place: Place) -> None:
    for budget in study.labels:
        is_run = any(study.is_run(arm, data, detector, budget.name) for arm in study.arms)
        for key, unlimited in BUDGETS.items():
            value = budget.changes.get(key, options.get(key, unlimited))
            if budget.name == ALL and is_run and value not in (None, unlimited):
                raise UserError(
                    f"{place}: {ALL}, and the recipe of {data} has {key} {value}; take that out of the recipe, or say "
                    f"labels: [{value}]"
                )
