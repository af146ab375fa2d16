"""Model cards for publication with weights: facts, and no paths on the machine they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from medpretrain3d.absolute_paths import last_name, mapped, named
from medpretrain3d.documents import parse_yaml

CONFIG = "config"
"""Entry of a card that holds a configuration as YAML text."""
VOLUMES_SEEN = "volumes_seen"
"""Entry of a card that holds hashes of scans in base64, whose slashes begin no path."""


def without_places(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card in which every path of a file or folder is its last name alone; of a configuration also relative paths.

    Args:
        card: plain data.
    """
    return {key: _clean(key, value) for key, value in card.items()}


def _clean(key: str, value: Any) -> Any:
    if key == CONFIG:
        return _without_config(value)
    if key == VOLUMES_SEEN and isinstance(value, Mapping):
        return {**value, "unknown": mapped(value.get("unknown", []), named)}
    return mapped(value, named)


def _without_config(config: Any) -> Any:
    if not isinstance(config, str):
        return mapped(config, _last)
    try:
        return yaml.safe_dump(mapped(parse_yaml(config), _last), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return "not kept: it was no YAML"


def _last(text: str) -> str:
    """Return the last name of a path; a text that is none stays."""
    is_place = ("/" in text or "\\" in text or text.startswith("~")) and "://" not in text and "\n" not in text
    return last_name(text) if is_place else named(text)
