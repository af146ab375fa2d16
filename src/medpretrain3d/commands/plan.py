"""Plan training on a store, or check a plan that was edited.

Given a STORE: spacing, patch, batch, strides, kernels, detection levels and anchors for the memory of one device, as
JSON with --output. Given a plan's JSON file: checks it. Either way prints the part of a recipe that follows from it:
`medpretrain3d plan plan.json > plan.yaml`, then `medpretrain3d finetune --config RECIPE --config plan.yaml`.
Plan a store of native spacing first, then prepare the data again: `medpretrain3d prepare RAW STORE --plan plan.json`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import yaml

from medpretrain3d.atomic import locked
from medpretrain3d.backbones.resenc import PRESETS
from medpretrain3d.commands.numbers import Number
from medpretrain3d.configurable import to_config
from medpretrain3d.planning import Plan, make_plan, read_plan
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.foreground import foreground_normalization
from medpretrain3d.store.specks import speck_notes
from medpretrain3d.store.store import Store
from medpretrain3d.values import Layers, Positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store or plan, and what is at hand."""
    parser.add_argument("source", type=Path, metavar="STORE|PLAN.json")
    parser.add_argument("--memory", type=Number(Positive), default=16.0, help="GiB of one device")
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
    """Plan or check, then print."""
    if args.source.is_file():
        plan = read_plan(args.source)
    else:
        plan = make_plan(Corpus([args.source]), args.memory, args.preset, args.anchors_per_level)
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


def _as_recipe(plan: Plan) -> str:
    facts = [f"# {name}: {value}" for name, value in plan.report.items()]
    spacing = " ".join(f"{edge:g}" for edge in plan.spacing_mm)
    recipe = yaml.safe_dump(plan.recipe(), sort_keys=False, default_flow_style=None, width=110)
    return "\n".join([*facts, f"# prepare with --spacing-mm {spacing}", recipe])
