"""Paths of this machine in plain data that others read: their last names alone stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_PLACE = re.compile(r"(?<![\w.:/\\~])(?:~|[A-Za-z]:(?=\\))?(?:[/\\][^\s/\\'\",;()\[\]{}]+){2,}[/\\]?")


def without_absolute_paths(value: Any) -> Any:
    """Return plain data in which every absolute path of a file or folder is its last name; relative ones stay."""
    return mapped(value, named)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return plain data with every text changed, keys among them; tuples become lists."""
    if isinstance(value, Mapping):
        return {change(key) if isinstance(key, str) else key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def named(text: str) -> str:
    """Return a text in which absolute paths are replaced by their last names."""
    if is_absolute(text):
        return last_name(text)
    return _PLACE.sub(lambda found: last_name(found[0]), text)


def is_absolute(text: str) -> bool:
    """Return whether a text of one line is an absolute path and nothing else."""
    return text.startswith(("/", "~/", "\\\\")) and "\n" not in text


def last_name(path: str) -> str:
    """Return the last name of a path of any system."""
    return PureWindowsPath(PurePosixPath(path).name).name
