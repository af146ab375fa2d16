"""Plan training on a store, check a plan that was edited, or compute what a recipe needs.

Given a STORE: spacing, patch, batch, strides, kernels, detection levels and anchors for the memory of one device, as
JSON with --output. Given a plan's JSON file: checks it. Either way prints the part of a recipe that follows from it:
`medpretrain3d plan plan.json > plan.yaml`, then `medpretrain3d finetune --config RECIPE --config plan.yaml`.
Plan a store of native spacing first, then prepare the data again: `medpretrain3d prepare RAW STORE --plan plan.json`.

Given recipes of either stage and options as the stage takes them, says how much memory one process takes on its device,
with activations kept and computed again, and how much arithmetic the run is, without data and without a GPU:
`medpretrain3d plan --config dino_primus_m --data.batch_size 2 --trainer.devices 4 --trainer.strategy fsdp2`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from medpretrain3d.atomic import locked
from medpretrain3d.backbones.resenc import PRESETS
from medpretrain3d.commands.numbers import Number
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError
from medpretrain3d.planning import Plan, make_plan, read_plan
from medpretrain3d.planning.planned_recipe import STAGES, PlannedRecipe, lines
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.foreground import foreground_normalization
from medpretrain3d.store.specks import speck_notes
from medpretrain3d.store.store import Store
from medpretrain3d.values import Layers, Positive

KEYS = ("model", "data", "trainer", "device", "run")
"""Of recipes, which options change."""
MEMORY_GIB = 16.0
"""Of a device of which nothing is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store or plan, and what is at hand."""
    parser.add_argument("source", type=Path, nargs="?", metavar="STORE|PLAN.json")
    parser.add_argument("--config", action="append", default=[], metavar="RECIPE", help="what is to be run; repeatable")
    parser.add_argument("--stage", choices=list(STAGES), help="of recipes (default: the one that they are for)")
    for key in KEYS:
        table: Any = dict[str, Any]  # jsonargparse takes types
        parser.add_argument(f"--{key}", type=table, default={}, help=f"with .KEY VALUE, {key} of the recipe")
    parser.add_argument(
        "--memory", type=Number(Positive), help="GiB of one device (a store: default 16; a recipe: what has to suffice)"
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="L", help="size of the ResEnc backbone")
    parser.add_argument("--anchors-per-level", type=Number(Layers), default=9)
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="normalise CT by the voxels inside the training objects, as nnDetection does; these are read",
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.output) if args.output else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Plan, check or compute, then print."""
    if args.config:
        return _of_recipe(args)
    if args.source is None:
        raise UserError("plan: wanted a store, a plan, or a recipe by --config")
    options = [f"--{key}" for key in KEYS if getattr(args, key)] + (["--stage"] if args.stage else [])
    if options:
        raise UserError(f"plan: got {', '.join(options)} and no recipe that they change; give --config")
    if args.source.is_file():
        plan = read_plan(args.source)
    else:
        plan = make_plan(Corpus([args.source]), args.memory or MEMORY_GIB, args.preset, args.anchors_per_level)
        if missing := plan.report.get("missing"):
            print(f"warning: {args.source}: {missing}", file=sys.stderr)
        if plan.report.get("specks_left_out"):
            for note in speck_notes(Store(args.source)):
                print(f"note: {note}; levels and anchors are planned without them", file=sys.stderr)
        if too_long := plan.report.get("long_objects"):
            print(f"note: {args.source}: {too_long}", file=sys.stderr)
        if Store(args.source).spacing_mm is None:
            spacing = " ".join(f"{edge:g}" for edge in plan.spacing_mm)
            print(
                f"note: {args.source}: every scan keeps its own spacing; train on it as it is only if the backbone was "
                "pretrained without resampling, as nnFoundation's were; else prepare again with --plan or "
                f"--spacing-mm {spacing}",
                file=sys.stderr,
            )
    if args.foreground:
        window = foreground_normalization(Store(args.source))
        for doubt in Corpus([args.source]).doubts_about(window):
            print(f"note: {doubt}", file=sys.stderr)
        plan = replace(plan, window=to_config(window))
    if args.output:
        plan.write(args.output)
    print(_as_recipe(plan), end="")
    return 0


def _of_recipe(args: argparse.Namespace) -> int:
    if args.source is not None or args.output or args.foreground:
        raise UserError("plan: got a recipe and a store, a plan, --output or --foreground; ask for one of them")
    options = {key: getattr(args, key) for key in KEYS}
    planned = PlannedRecipe.read(args.config, options, args.stage)
    needs = planned.requirements()
    print("\n".join(lines(needs)))
    if args.memory is not None and needs.memory.gib > args.memory:
        raise UserError(
            f"plan: one process needs {needs.memory.gib:.1f} GiB, more than --memory {args.memory:g}; lower "
            "data.batch_size or data.patch, set checkpointing: true in the backbone, or deal weights out with "
            "--trainer.strategy fsdp2"
        )
    return 0


def _as_recipe(plan: Plan) -> str:
    facts = [f"# {name}: {value}" for name, value in plan.report.items()]
    spacing = " ".join(f"{edge:g}" for edge in plan.spacing_mm)
    recipe = yaml.safe_dump(plan.recipe(), sort_keys=False, default_flow_style=None, width=110)
    return "\n".join([*facts, f"# prepare with --spacing-mm {spacing}", recipe])
