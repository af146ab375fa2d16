"""Search options of a stage by many runs, without a server: Optuna draws them, by the file of a wandb sweep.

The file says which options are searched, how, and by which column of `metrics.csv`; see configs/sweeps. With a wandb
account the same file does for `wandb sweep` and `wandb agent`. Interrupt it at any time: the next call goes on.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from medpretrain3d.atomic import locked_folder
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.commands.numbers import Number
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import GRACE_S, signals
from medpretrain3d.study.sweep import Sweep
from medpretrain3d.study.sweep_file import SweepFile, read_sweep
from medpretrain3d.values import Count, Whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, how many trials, and where."""
    parser.add_argument("file", metavar="SWEEP", help="a file, or a name from configs/sweeps/")
    parser.add_argument(
        "--trials", type=Number(Count), metavar="N", help="runs in all (default: run_cap of the file, or all of a grid)"
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="where runs are kept (default: %(default)s)")
    parser.add_argument("--name", help="of the folder below (default: the name in the file, or that of the file)")
    parser.add_argument("--seed", type=Number(Whole), default=0, help="of what is drawn (default: %(default)s)")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call works at a sweep at a time; its runs lock their own folders."""
    return locked_folder(args.root / _file(args).name, clean=False)


def run(args: argparse.Namespace) -> int:
    """Run the trials that are missing."""
    file = _file(args)
    numbers = [number for number in (args.trials or file.run_cap, file.num_combinations) if number is not None]
    if not numbers:
        raise UserError(f"sweep {args.file}: wanted a number of trials; give --trials 20")
    sweep = Sweep(file, args.root, args.seed)
    before = signals.mode, signals.grace_s
    signals.mode, signals.grace_s = "note", GRACE_S + 5
    try:
        return sweep.run(min(numbers))
    finally:
        signals.mode, signals.grace_s = before


def _file(args: argparse.Namespace) -> SweepFile:
    return read_sweep(find_recipe(args.file, "sweeps"), args.name)
