"""Run a study: every program of a document from configs/study/ whose product does not exist yet.

Interrupt it at any time; the next call goes on, and an interrupted training run continues where it stopped.
"""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager

from medpretrain3d.atomic import locked_folder
from medpretrain3d.atomic.lock import LOCK
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.study.chain import read_chain, read_folder, run_chain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The document."""
    parser.add_argument("document", help="a file, or the name of one of configs/study/, such as demo")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call works at the study's folder at a time; the programs that it starts lock what they write."""
    return locked_folder(read_folder(find_recipe(args.document, "study")), f".study{LOCK}", clean=False)


def run(args: argparse.Namespace) -> int:
    """Run what is missing."""
    started = time.monotonic()
    steps = read_chain(find_recipe(args.document, "study"))
    run_chain(steps)
    print(f"{args.document}: all {len(steps)} steps done ({(time.monotonic() - started) / 60:.1f} min now)")
    print(f"open {steps[-1].product}")
    return 0
