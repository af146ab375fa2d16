"""Plan training on a store: a recipe that trains at once, and a page of the data; or compute what a recipe needs.

STORE is what `medpretrain3d prepare RAW STORE` made, at the scans' own spacing. Written are

  configs/NAME.yaml   a whole recipe for `medpretrain3d finetune --config configs/NAME.yaml`: spacing, patch, network,
                      anchors, classes, splits and schedule, each with its reason
  configs/NAME.html   the data: sizes of objects, spacings, intensities, splits, slices with boxes, warnings
  STORE_at_...mm      the store at the planned spacing, which the recipe names; what is there is kept

for a GPU where there is one, else for this machine's CPU. A recipe that was edited is never overwritten.
With --output the plan becomes a JSON file to edit instead (for a GPU of 16 GiB, if nothing else is asked for), and
such a file, PLAN.json, is checked. Each call prints the part of a recipe that follows from the plan:
`medpretrain3d plan plan.json > plan.yaml`, then `medpretrain3d finetune --config RECIPE --config plan.yaml`.

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
from medpretrain3d.commands.numbers import Number, Processes, SpacingMm
from medpretrain3d.commands.plan_files import write_plan_files
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError
from medpretrain3d.planning import Plan, make_plan, read_plan
from medpretrain3d.planning.planned_recipe import STAGES, PlannedRecipe, lines
from medpretrain3d.planning.setup import SETUPS, Setup
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.foreground import foreground_normalization
from medpretrain3d.store.specks import speck_notes
from medpretrain3d.store.store import Store
from medpretrain3d.urls import refuse_url
from medpretrain3d.values import Layers, Positive

KEYS = ("model", "data", "trainer", "device", "run")
"""Of recipes, which options change."""
OF_STORE = ("foreground", "accelerator", "spacing_mm", "recipe", "resampled", "preset", "anchors_per_level")
"""Options that mean nothing to a recipe or plan that is given."""
SAVES_MEMORY = "use fewer --workers"
"""What to change where memory runs out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store or plan, and what is at hand."""
    parser.add_argument("source", type=Path, nargs="?", metavar="STORE|PLAN.json")
    parser.add_argument("--config", action="append", default=[], metavar="RECIPE", help="what is to be run; repeatable")
    parser.add_argument("--stage", choices=list(STAGES), help="of recipes (default: the one that they are for)")
    for key in KEYS:
        table: Any = dict[str, Any]  # jsonargparse takes types
        parser.add_argument(f"--{key}", type=table, default={}, help=f"with .KEY VALUE, {key} of the recipe")
    parser.add_argument(
        "--accelerator", choices=list(SETUPS), help="what will train: decides on all below (default: what is here)"
    )
    parser.add_argument(
        "--memory",
        type=Number(Positive),
        help="GiB of one device (a store: default that of the GPU here, else 16; a recipe: what has to suffice)",
    )
    parser.add_argument("--preset", choices=list(PRESETS), help="size of the ResEnc backbone (default: L, on a CPU XS)")
    parser.add_argument("--anchors-per-level", type=Number(Layers), help="default: 9, on a CPU 4")
    parser.add_argument(
        "--spacing-mm",
        type=Number(SpacingMm),
        nargs=3,
        metavar=("D", "H", "W"),
        help="to train at (default: nnU-Net's rule, on a CPU coarser where objects allow it)",
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="normalise CT by the voxels inside the training objects, as nnDetection does; these are read",
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE.yaml", help="to write (default: configs/NAME.yaml)")
    parser.add_argument("--resampled", type=Path, metavar="STORE", help="to write (default: beside STORE)")
    parser.add_argument(
        "--workers", type=Number(Processes), default=1, help="cases resampled at a time, each in a process of its own"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PLAN.json", help="write the plan to edit, and no recipe")


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
    if args.output:
        refuse_unused(args, add_arguments, ("recipe", "resampled"), "is not written beside --output; leave one out")
    for place in (args.recipe, args.resampled):
        if place is not None:
            refuse_url(place)
    if args.source.is_file():
        return _checked(args, read_plan(args.source))
    setup = _setup(args)
    plan = _planned(args, setup)
    if args.output:
        plan.write(args.output)
    makes_recipe = not args.output and plan.first_level is not None  # and the store for it
    told = [f"# {line}" for line in write_plan_files(args, plan, setup)] if makes_recipe else []
    print(_as_recipe(plan, is_to_prepare=not makes_recipe), end="")
    for line in told:
        print(line)
    return 0


def _of_recipe(args: argparse.Namespace) -> int:
    if any(getattr(args, name) not in (None, False) for name in ("source", "output", *OF_STORE)):
        raise UserError(
            "plan: got a recipe and a store, a plan, --output, --foreground or another option of a store; ask for one "
            "of them"
        )
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


def _checked(args: argparse.Namespace, plan: Plan) -> int:
    """Print what follows from a plan that was edited; there are no data to make a whole recipe of."""
    names = (*OF_STORE, "memory")
    asked = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)]
    if asked:
        raise UserError(f"plan: got {', '.join(asked)} for {args.source}, which is a plan; these are of a store")
    if args.output:
        plan.write(args.output)
    print(_as_recipe(plan, is_to_prepare=True), end="")
    return 0


def _setup(args: argparse.Namespace) -> Setup:
    """Return what the accelerator asks for, with what was given in its place."""
    accelerator, memory_gib = args.accelerator, None
    if accelerator is None or args.memory is None:
        import torch

        has_gpu = torch.cuda.is_available()
        accelerator = accelerator or ("gpu" if args.output or has_gpu else "cpu")
        if accelerator == "gpu" and has_gpu and not args.output:
            memory_gib = float(int(torch.cuda.get_device_properties(0).total_memory / 2**30))
    setup = SETUPS[accelerator]
    return replace(
        setup,
        memory_gib=args.memory or memory_gib or setup.memory_gib,
        preset=args.preset or setup.preset,
        anchors_per_level=args.anchors_per_level or setup.anchors_per_level,
    )


def _planned(args: argparse.Namespace, setup: Setup) -> Plan:
    spacing_mm = None if args.spacing_mm is None else (args.spacing_mm[0], args.spacing_mm[1], args.spacing_mm[2])
    corpus = Corpus([args.source])
    plan = make_plan(
        corpus,
        setup.memory_gib,
        setup.preset,
        setup.anchors_per_level,
        setup.min_batch_size,
        spacing_mm,
        setup.max_scan_voxels,
        setup,
        finds_points=not args.output,
    )
    if missing := plan.report.get("missing"):
        print(f"warning: {args.source}: {missing}", file=sys.stderr)
    if plan.report.get("specks_left_out"):
        for note in speck_notes(Store(args.source)):
            print(f"note: {note}; levels and anchors are planned without them", file=sys.stderr)
    if num_points := plan.report.get("points_without_size"):
        print(
            f"note: {args.source}: {num_points} objects are points, which have no size and no anchors: "
            + (
                "planned is a heat map, which learns the centers of all objects"
                if plan.anchors is None
                else "anchors are planned without them"
            ),
            file=sys.stderr,
        )
    if too_long := plan.report.get("long_objects"):
        print(f"note: {args.source}: {too_long}", file=sys.stderr)
    if corpus.spacing_mm is None:
        print(f"note: {args.source}: every scan keeps its own spacing; {_about_spacing(args, plan)}", file=sys.stderr)
    if args.foreground:
        window = foreground_normalization(Store(args.source))
        for doubt in corpus.doubts_about(window):
            print(f"note: {doubt}", file=sys.stderr)
        plan = replace(plan, window=to_config(window))
    return plan


def _about_spacing(args: argparse.Namespace, plan: Plan) -> str:
    if not args.output and plan.first_level is not None:
        return f"the recipe resamples all to {' x '.join(f'{edge:g}' for edge in plan.spacing_mm)} mm"
    return (
        "train on it as it is only if the backbone was pretrained without resampling, as nnFoundation's were; else "
        f"prepare again with --plan or --spacing-mm {' '.join(f'{edge:g}' for edge in plan.spacing_mm)}"
    )


def _as_recipe(plan: Plan, is_to_prepare: bool) -> str:
    facts = [f"# {name}: {value}" for name, value in plan.report.items()]
    spacing = " ".join(f"{edge:g}" for edge in plan.spacing_mm)
    recipe = yaml.safe_dump(plan.recipe(), sort_keys=False, default_flow_style=None, width=110)
    return "\n".join([*facts, *([f"# prepare with --spacing-mm {spacing}"] if is_to_prepare else []), recipe])
