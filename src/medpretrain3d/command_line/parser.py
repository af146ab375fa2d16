"""The parser of commands and stages: jsonargparse, with one spelling and one line for what is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.errors import printable
from medpretrain3d.home import from_home
from medpretrain3d.lines import print_line


class CommandParser(ArgumentParser):
    """Takes options with hyphens and underscores alike, and none that is abbreviated: it may be another one's name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    # Without the names of what is handed on, which differ between the parsers that it stands before.
    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **kwargs: Any
    ) -> Namespace:
        """Parse words; see the class. `~` in front of a path is the home folder, also where a shell leaves it."""
        words = sys.argv[1:] if args is None else args
        parsed = super().parse_args(respelled(words, option_names(self)), *others, **kwargs)
        for name, value in vars(parsed).items():
            if isinstance(value, Path):
                setattr(parsed, name, from_home(value))
            elif isinstance(value, list):
                setattr(parsed, name, [from_home(one) if isinstance(one, Path) else one for one in value])
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in one line what is wrong.

        Raises:
            SystemExit: with 2.
        """
        print_line(printable(f"error: {self.prog}: {self.cause(str(ex or message))}"), to_stderr=True)
        raise SystemExit(2)

    def cause(self, message: str) -> str:
        """Return the error message of argparse, with the nearest known word in place of a list of all."""
        text = " ".join(message.split())
        if unknown := re.match(r"unrecognized arguments: (\S+)", text):
            word = unknown[1].partition("=")[0]
            if word.startswith("-"):
                return f"unknown option '{word}'{did_you_mean(word, option_names(self)) or f'; see {self.prog} --help'}"
            return f"got '{word}' more than it takes; see {self.prog} --help"
        if choice := re.match(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", text):
            known = [one.strip("' ") for one in choice[3].split(",")]
            hint = did_you_mean(choice[2], known)
            return f"got {choice[1]} {choice[2]!r}, wanted one of {', '.join(known)}{hint}"
        return text


def option_names(parser: ArgumentParser) -> list[str]:
    """Return long options of a parser."""
    return [name for name in parser._option_string_actions if name.startswith("--")]


def respelled(words: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return words of a command line whose options have the hyphens and underscores that the parser knows.

    Args:
        words: up to `--` options are respelled, what is behind it stays.
        known: long options. What is none of them in either spelling is a key inside an object, as
            `--model.objective.init_args.mask-ratio`, or unknown: the first gets underscores, as arguments of Python.
    """
    by_key = {name.replace("_", "-"): name for name in known}
    result: list[str] = []
    is_option = True
    for word in words:
        is_option = is_option and word != "--"
        name, equals, value = word.partition("=")
        if is_option and name.startswith("--") and len(name) > 2:
            name = by_key.get(name.replace("_", "-"), f"--{name[2:].replace('-', '_')}" if "." in name else name)
        result.append(name + equals + value)
    return result


def option_values(words: Sequence[str]) -> dict[str, str]:
    """Return the options that a command line names, without their dashes, each with the last value behind it.

    Args:
        words: as `respelled` returns them; `--name value` and `--name=value` mean the same.
    """
    values: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--") and len(name) > 2:
            values[name[2:]] = value if equals else following
    return values
