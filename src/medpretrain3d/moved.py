"""Classes that have moved since recipes, encoder files and bundles were written that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {
    "medpretrain3d.data.augment": "medpretrain3d.loading.augment",
    "medpretrain3d.data.intensity": "medpretrain3d.store.intensity",
    "medpretrain3d.data.sampling": "medpretrain3d.loading.sampling",
    "medpretrain3d.data.views": "medpretrain3d.loading.views",
    "medpretrain3d.data.case_labels": "medpretrain3d.loading.case_labels",
}
"""Modules, or classes with their module, and where they are now."""


def current_class_path(path: str) -> str:
    """Return where a class is now that a file names by an earlier place."""
    module, _, name = path.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else MOVED.get(path, path)


def with_current_class_paths(document: Any) -> Any:
    """Return a copy of plain data in which every `class_path` leads to where the class is now."""
    if isinstance(document, Mapping):
        return {
            key: current_class_path(value)
            if key == "class_path" and isinstance(value, str) and value.startswith("medpretrain3d.")
            else with_current_class_paths(value)
            for key, value in document.items()
        }
    if isinstance(document, list):
        return [with_current_class_paths(item) for item in document]
    return document
