"""Make the dashboard of a project at wandb: runs grouped by arm, mean and band over runs, costs, pictures.

It is a saved view, which everyone who may see the project can open and change. Saving needs the network and an API key;
`--output` writes its document instead, and needs neither.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.study.workspace import Dashboard, document_of, run_id_of, save, workspace_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which project, and what is compared."""
    parser.add_argument("--entity", required=True, metavar="TEAM", help="team or user at wandb")
    parser.add_argument("--project", required=True, help="project that the runs are in")
    parser.add_argument("--group", help="show the runs of one group, such as a study, only")
    parser.add_argument("--baseline", metavar="RUN", help="run that stays on top: its folder, or its id at wandb")
    parser.add_argument(
        "--metric", default=Dashboard.metric, help="primary metric, as runs have it below test/ (default: %(default)s)"
    )
    parser.add_argument("--name", default=Dashboard.name, help="of the dashboard (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the document instead of saving it")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.output) if args.output else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Save it, or write it."""
    baseline = run_id_of(args.baseline) if args.baseline else None
    dashboard = Dashboard(args.entity, args.project, args.name, args.metric, baseline, args.group)
    workspace = workspace_of(dashboard)
    if args.output:
        write_text(args.output, document_of(workspace))
        print(f"{args.output}: dashboard '{args.name}' of {args.entity}/{args.project}, not saved at wandb")
    else:
        print(save(workspace))
    return 0
