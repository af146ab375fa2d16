"""Options of the commands that run jobs: on which machine, and how many at once."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from medpretrain3d.commands.numbers import Number
from medpretrain3d.values import Count, Whole

if TYPE_CHECKING:
    from medpretrain3d.study.workflow import Machine


MACHINE = ("cores", "gpus", "executor", "snakemake")
"""These options, as a namespace has them."""


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Cores, GPUs, executor and further options of the engine."""
    parser.add_argument(
        "--cores", type=Number(Count), help="of this machine (default: all); of a cluster: jobs at a time"
    )
    parser.add_argument("--gpus", type=Number(Whole), help="of this machine, one per job (default: all)")
    parser.add_argument(
        "--executor", default="local", metavar="NAME", help="local, or a plugin of Snakemake: slurm, ..."
    )
    parser.add_argument("--snakemake", default="", metavar="=OPTIONS", help="further options for it, in quotes")


def machine_of(args: argparse.Namespace) -> Machine:
    """Return the machine that the options name."""
    from medpretrain3d.study.workflow import Machine

    return Machine(args.executor, args.cores, args.gpus, tuple(shlex.split(args.snakemake)))
