"""The parser of a stage: one line for what is wrong, recipes on their bases."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from medpretrain3d.command_line.parser import CommandParser
from medpretrain3d.command_line.recipes import BASE, read_recipe, recipe_text
from medpretrain3d.errors import UserError
from medpretrain3d.plugins import load_named_plugins


class StageParser(CommandParser, LightningArgumentParser):
    """Says what is wrong with a configuration in one line and names the nearest key."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a recipe that is YAML of bounded size; its base was parsed before it."""
        recipe = read_recipe(Path(path))
        load_named_plugins(recipe)  # before the names of their classes are looked up
        if BASE in recipe:
            return self.parse_string(recipe_text(recipe), *args, **kwargs)
        return super().parse_path(path, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message, shortened to its cause."""
        raise UserError(one_line(str(ex or message), self))


def one_line(message: str, parser: LightningArgumentParser) -> str:
    """Return the cause that a message of jsonargparse ends with, and the nearest key to one that is unknown."""
    text = " ".join(message.split())
    unknown = re.search(r"(?:[Kk]ey|does not accept option) '([\w.]+)'|[Uu]nrecognized arguments: --([\w.]+)", text)
    if unknown:
        key = unknown.group(1) or unknown.group(2)
        word = key.rpartition(".")[2]
        known = _known_keys(parser)
        words = {name.rpartition(".")[2] for name in known} | _constructor_names()
        # A last word that exists means that what stands before it is wrong: then whole keys are compared.
        close = difflib.get_close_matches(*((key, sorted(known)) if word in words else (word, sorted(words))), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"configuration: unknown key '{key if word in words else word}'{hint} ({text[:300]})"
    cause = re.search(r"- (\w+: got .*?, wanted .*?)(?= - |$)", text)  # of the one type among several that was meant
    return f"configuration: {cause[1] if cause else text[:600]}"


def _known_keys(parser: LightningArgumentParser) -> set[str]:
    """All options of the parser and its subcommands, dots included."""
    keys: set[str] = set()
    for action in parser._actions:
        keys.add(str(action.dest))
        children: Any = action.choices
        if isinstance(children, dict):
            keys |= {key for subparser in children.values() for key in _known_keys(subparser)}
    return keys


def _constructor_names() -> set[str]:
    """Argument names of every configurable class that is imported: what a nested key may have meant."""
    from inspect import signature

    from medpretrain3d.configurable import Configurable

    def below(cls: type) -> set[type]:
        children: list[type] = type.__subclasses__(cls)
        return {cls}.union(*(below(child) for child in children))

    return {name for cls in below(Configurable) for name in signature(cls).parameters}
