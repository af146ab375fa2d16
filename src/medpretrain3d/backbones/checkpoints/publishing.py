"""Model cards for publication with weights: facts, and no paths on the machine they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from medpretrain3d.documents import parse_yaml

CONFIG = "config"
"""Entry of a card that holds a configuration as YAML text."""
VOLUMES_SEEN = "volumes_seen"
"""Entry of a card that holds hashes of scans in base64, whose slashes begin no path."""
_PLACE = re.compile(r"(?<![\w.:/\\~])(?:~|[A-Za-z]:(?=\\))?(?:[/\\][^\s/\\'\",;()\[\]{}]+){2,}[/\\]?")


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
        return {**value, "unknown": _mapped(value.get("unknown", []), _named)}
    return _mapped(value, _named)


def _without_config(config: Any) -> Any:
    if not isinstance(config, str):
        return _mapped(config, _last)
    try:
        return yaml.safe_dump(_mapped(parse_yaml(config), _last), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return "not kept: it was no YAML"


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {change(key) if isinstance(key, str) else key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _last(text: str) -> str:
    """Return the last name of a path; a text that is none stays."""
    is_place = ("/" in text or "\\" in text or text.startswith("~")) and "://" not in text and "\n" not in text
    return _name(text) if is_place else _named(text)


def _named(text: str) -> str:
    """Return a text in which absolute paths are replaced by their last names."""
    if text.startswith(("/", "~/", "\\\\")) and "\n" not in text:
        return _name(text)
    return _PLACE.sub(lambda found: _name(found[0]), text)


def _name(path: str) -> str:
    return PureWindowsPath(PurePosixPath(path).name).name
