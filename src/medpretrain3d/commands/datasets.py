"""List the data sets and layouts that `medpretrain3d prepare` reads, or show the raw tree of one.

`detection` sets have a recipe configs/finetune/NAME.yaml, a `corpus` is for pretraining, a `generic` layout takes data
of your own. Where to get each and what is wrong with it: docs/datasets.md.
"""

from __future__ import annotations

import argparse
import inspect

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import Layout, layouts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A name, or nothing."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the raw tree of this one")


def run(args: argparse.Namespace) -> int:
    """Print a table, or a tree."""
    known = layouts()
    if args.name is None:
        print(f"{'name':<26}{'kind':<11}{'classes':<30}{'licence':<44}documented in")
        for layout in known.values():
            print(f"{layout.name:<26}{layout.kind:<11}{_classes(layout):<30}{layout.licence:<44}{layout.documented_in}")
        return 0
    if args.name not in known:
        raise UserError(f"{args.name}: unknown; known are {', '.join(known)}")
    layout = known[args.name]
    options = [f"{one.name}={one.default}" for one in list(inspect.signature(layout.read).parameters.values())[1:]]
    print(f"{layout.name} ({layout.kind}, {layout.licence}), {layout.documented_in}\n{layout.wanted}")
    print(f"classes: {', '.join(layout.classes) or _classes(layout)}")
    if options:
        print(f"options: {', '.join(options)}")
    return 0


def _classes(layout: Layout) -> str:
    if not layout.classes:
        return "as the files say" if layout.kind == "generic" and layout.patterns else "none"
    message = ", ".join(layout.classes)
    return message if len(message) < 29 else f"{len(layout.classes)}: {layout.classes[0]}, ..."
