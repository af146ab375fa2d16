"""Values of a study's document: each is what was wanted, or one line says where it stands and what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_name


@dataclass(frozen=True)
class Place:
    """Where in a document something stands."""

    source: str
    key: str = ""

    def at(self, name: object) -> Place:
        """Return the place of an entry."""
        return Place(self.source, f"{self.key}.{name}" if self.key else str(name))

    def recipe(self, value: object, kind: str) -> Path:
        """Return the recipe that a text names.

        Raises:
            UserError: it is no text, or there is no such recipe.
        """
        try:
            path = find_recipe(a_text(value, self), kind)
        except UserError as error:
            raise UserError(str(error) if str(error).startswith(self.source) else f"{self}: {error}") from error
        if not path.is_file():
            raise UserError(f"{self}: {path}: no such file; give the path or the name of a recipe of {kind}")
        return path

    def __str__(self) -> str:
        return f"{self.source}: {self.key}" if self.key else self.source


def only_keys(entry: Mapping[str, Any], known: Sequence[str], place: Place, required: Sequence[str] = ()) -> None:
    """Refuse keys that are unknown, and the lack of others.

    Raises:
        UserError: names the first.
    """
    for key in entry:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"; wanted {', '.join(known)}"
            raise UserError(f"{place}: unknown key '{key}'{hint}")
    for key in required:
        if key not in entry:
            raise UserError(f"{place}: has no key '{key}'; add it")


def a_mapping(value: Any, place: Place, wanted: str, least: int = 1) -> Mapping[Any, Any]:
    """Return a mapping with so many entries.

    Raises:
        UserError: it is none, or has fewer.
    """
    if not isinstance(value, Mapping) or len(value) < least:
        raise UserError(f"{place}: got {_shown(value)}, wanted {wanted}")
    return value


def a_list(value: Any, place: Place, wanted: str, least: int = 1) -> list[Any]:
    """Return a list with so many entries.

    Raises:
        UserError: it is none, or has fewer.
    """
    if not isinstance(value, list) or len(value) < least:
        raise UserError(f"{place}: got {_shown(value)}, wanted {wanted}")
    return value


def a_text(value: Any, place: Place) -> str:
    """Return a text that is not empty.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UserError(f"{place}: got {_shown(value)}, wanted a text")
    return value


def a_name(value: Any, place: Place) -> str:
    """Return a name that may be part of the name of a folder.

    Raises:
        UserError: it is none, or begins with a dash.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    name = plain_name(value, str(place))
    if name.startswith("-") or name.endswith(".") or len(name) > 60:
        raise UserError(f"{place} {name!r}: wanted at most 60 characters, no dash in front and no dot behind")
    return name


def names_of(entries: Mapping[Any, Any], place: Place) -> list[str]:
    """Return the keys of a mapping as names of folders.

    Raises:
        UserError: one is none, or two are one name, as the number 1 and the text "1".
    """
    return once([a_name(key, place.at(key)) for key in entries], place)


def a_count(value: Any, place: Place, wanted: str = "a whole number", least: int = 1) -> int:
    """Return a whole number of at least so much.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise UserError(f"{place}: got {_shown(value)}, wanted {wanted} of at least {least}")
    return value


def a_number(value: Any, place: Place, above: float, at_most: float = math.inf) -> float:
    """Return a number within a range.

    Raises:
        UserError: it is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not above < value <= at_most:
        limit = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise UserError(f"{place}: got {_shown(value)}, wanted a number above {above:g}{limit}")
    return float(value)


def once(values: Sequence[Any], place: Place) -> list[Any]:
    """Return values of which none is there twice.

    Raises:
        UserError: one is.
    """
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise UserError(f"{place}: {twice} is there twice; keep one of them")
    return list(values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
