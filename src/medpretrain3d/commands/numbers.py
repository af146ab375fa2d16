"""Numbers on the command line: their ranges are types, as those of recipes are."""

from __future__ import annotations

import argparse
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, Le

from medpretrain3d.values import check_value

Processes = Annotated[int, Ge(1), Le(1024)]
SpacingMm = Annotated[float, Ge(0.01), Le(1000)]
"""Edge of a voxel; of less, one scan would fill a disk."""


class Number:
    """The `type` of an option: reads a number; whether it is in range is asked by `check_numbers`.

    Args:
        hint: of `medpretrain3d.values`, of whole numbers or others.
    """

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self._read = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        self.__name__ = self._read.__name__  # what argparse calls it where the text is no number

    def __call__(self, text: str) -> Any:
        """Return the number; what is none is said by argparse."""
        return self._read(text)


def check_numbers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Compare every number that was given, or is a default, with its range.

    Raises:
        UserError: names the first option that is out of range.
    """
    for action in parser._actions:
        given = getattr(options, action.dest, None)
        if isinstance(action.type, Number) and given is not None:
            name = max(action.option_strings, key=len, default=action.dest)
            for one in given if isinstance(given, list | tuple) else [given]:
                check_value(parser.prog, name, one, action.type.hint)
