"""Classes that have moved, and arguments that have other names, since files were written that name them.

Recipes, encoder files and bundles written before are read as if they had been written today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OWN = "medpretrain3d."
MOVED = {
    "medpretrain3d.data.augment": "medpretrain3d.loading.augment",
    "medpretrain3d.data.intensity": "medpretrain3d.store.intensity",
    "medpretrain3d.data.sampling": "medpretrain3d.loading.sampling",
    "medpretrain3d.data.views": "medpretrain3d.loading.views",
    "medpretrain3d.data.case_labels": "medpretrain3d.loading.case_labels",
    "medpretrain3d.detection.sampling": "medpretrain3d.detection.classification_losses",
    "medpretrain3d.loading.sampling.Sites": "medpretrain3d.loading.sampling.CropSampler",
    "medpretrain3d.loading.views.LabelledView": "medpretrain3d.loading.views.LabeledView",
    "Sites": "CropSampler",
    "LabelledView": "LabeledView",
}
"""Modules, classes with their module, or short names of classes, and what each is now."""
KEYS = {
    "sites": "crop_sampler",
    "unlabelled": "unlabeled",
    "normalise_targets": "normalize_targets",
    "centre_momentum": "center_momentum",
}
"""Options of recipes and arguments of classes by their earlier spelling."""


@dataclass(frozen=True)
class Renamed:
    """What an argument of a constructor is called now, and the value that each earlier one is."""

    name: str
    values: Mapping[str, Any]


ARGUMENTS = {"ATSSMatcher": {"rule": Renamed("guarantee_match", {"house": True, "nndetection": False})}}
"""Earlier arguments of this package's classes, by the short name of the class."""


def current_class_path(path: str) -> str:
    """Return where a class is now that a file names by an earlier place."""
    module, _, name = path.rpartition(".")
    path = f"{MOVED[module]}.{name}" if module in MOVED else path
    return MOVED.get(path, path)


def current_arguments(path: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class by their names of today; what was never one of its arguments stays.

    Args:
        path: the class, with its module or by its short name.
        arguments: as a file holds them.
    """
    is_own = "." not in path or path.startswith(OWN)
    renamed = ARGUMENTS.get(path.rpartition(".")[2], {}) if is_own else {}
    current = {KEYS.get(key, key) if is_own else key: value for key, value in arguments.items()}
    for earlier, now in renamed.items():
        value = arguments.get(earlier)
        if isinstance(value, str) and value in now.values and now.name not in arguments:
            current[now.name] = now.values[current.pop(earlier)]
    return current


def with_current_names(document: Any) -> Any:
    """Return a copy of plain data in which every `class_path` and its `init_args` are those of today."""
    if isinstance(document, list):
        return [with_current_names(item) for item in document]
    if not isinstance(document, Mapping):
        return document
    current = {key: with_current_names(value) for key, value in document.items()}
    if isinstance(data := current.get("data"), Mapping):
        current["data"] = {KEYS.get(key, key): value for key, value in data.items()}
    path, arguments = document.get("class_path"), current.get("init_args")
    if isinstance(path, str):
        current["class_path"] = current_class_path(path)
        if isinstance(arguments, Mapping):
            current["init_args"] = current_arguments(path, arguments)
    return current
