"""Options that mean nothing beside the others that were given: none is ignored in silence."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from medpretrain3d.errors import UserError


def refuse_unused(
    args: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    names: Iterable[str],
    why: str,
) -> None:
    """Refuse options that were given another value than their default.

    Args:
        args: of a command.
        add_arguments: of the command, which knows the defaults.
        names: of the options, as `args` has them.
        why: what follows the option, as "is of a store; name it with --store, or leave it out".

    Raises:
        UserError: there is one.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            raise UserError(f"--{name.replace('_', '-')} {why}")
