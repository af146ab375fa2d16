"""`python -m pretrain fit --config <recipe>`, which `medpretrain3d pretrain` is as well; the program is `cli.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from medpretrain3d.imports import uncollected_imports
from medpretrain3d.interruption import signals


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    with uncollected_imports():
        from pretrain.cli import train

    train(args)


def run(args: Sequence[str] | None = None) -> None:
    """Run the program: bad input is one line and exit code 2, soon.

    Raises:
        SystemExit: see `run_stage`.
    """
    signals.take()  # before the imports, which take seconds: told to end meanwhile, it knows what to do
    from medpretrain3d.command_line.stages import begin

    words = sys.argv[1:] if args is None else args
    begin("pretrain", words)
    with uncollected_imports():
        from medpretrain3d.engine.stage import run_stage

    run_stage(partial(main, words))


if __name__ == "__main__":
    run()
