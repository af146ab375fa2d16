"""Plan, run and report a study: one document in, many runs, one answer.

`plan` prints its jobs, their hours and what changed; `run` runs what is not done yet and makes the report; `status`
says how far each job is and how the failed ones ended; `report` makes the report anew; `sync` sends what its runs, or
those of any folder, kept offline for wandb. Interrupt `run` at any time:
the next call goes on, and an interrupted training run continues where it stopped.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from medpretrain3d.atomic import locked_folder
from medpretrain3d.command_line.recipes import find_recipe, load_recipe
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.commands.machine_options import MACHINE, add_machine, machine_of
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted, print_line
from medpretrain3d.study.design import Study
from medpretrain3d.study.document import KEYS, read_study
from medpretrain3d.study.kept_results import STUDY_LOCK, restore_beside, restore_results
from medpretrain3d.study.run_study import plan_study, report_study, run_study, study_status
from medpretrain3d.study.sync import sync_runs
from medpretrain3d.values import Count

ACTIONS = ("plan", "run", "status", "report", "sync")
WRITING = ("run", "report")
SYNC = "sync"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, the document, and the machine."""
    parser.add_argument("action", metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument(
        "document", nargs="?", metavar="DOCUMENT", help="a file, or a name from configs/study/; of sync a folder, too"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the document, as seeds=2; repeatable"
    )
    parser.add_argument(
        "--keep-results-of-other-code",
        action="store_true",
        help="take results that another version of the code made, and say which",
    )
    parser.add_argument(
        "--pilot",
        action="append",
        default=[],
        metavar="FOLDER",
        help="of earlier runs, whose hours and spreads `plan` takes where the study has none; repeatable",
    )
    parser.add_argument(
        "--try-steps",
        type=Number(Count),
        metavar="N",
        help="`plan` runs the first N steps of a job of each kind where nothing says how long a step takes",
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="`report` also writes every plot as SVG")
    add_machine(parser)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call works at the study's folder at a time; the programs that it starts lock what they write."""
    if args.action == SYNC:
        return nullcontext()
    study = _study(args)
    return locked_folder(study.folder, STUDY_LOCK, clean=False) if args.action in WRITING else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Do it."""
    _refuse_options_of_others(args)
    if args.action == SYNC:
        return sync_runs(Path(args.document) if _is_folder(args) else _study(args).folder)
    study, keeps = _study(args), bool(args.keep_results_of_other_code)
    if num_taken := (restore_results if args.action in WRITING else restore_beside)(study):
        print_line(f"{study.name}: {counted(num_taken, 'result')} taken from {study.results}")
    if args.action == "plan":
        return plan_study(study, keeps, list(map(Path, args.pilot)), args.try_steps)
    if args.action == "status":
        return study_status(study, keeps)
    if args.action == "report":
        return report_study(study, keeps, args.figures)
    return run_study(study, machine_of(args), keeps)


def _refuse_options_of_others(args: argparse.Namespace) -> None:
    of_actions = {
        **dict.fromkeys(("pilot", "try_steps"), ("plan",)),
        **dict.fromkeys(MACHINE, ("run",)),
        "figures": ("report",),
        "keep_results_of_other_code": ("plan", "run", "status", "report"),
    }
    for name, actions in of_actions.items():
        if args.action not in actions:
            why = f"is of study {' or '.join(actions)}, got study {args.action}; leave it out"
            refuse_unused(args, add_arguments, (name,), why)
    if args.action == SYNC and _is_folder(args):
        refuse_unused(args, add_arguments, ("set",), f"is of a document, {args.document} is a folder; leave it out")


def _is_folder(args: argparse.Namespace) -> bool:
    return args.document is not None and Path(args.document).is_dir()


def _study(args: argparse.Namespace) -> Study:
    if args.action not in ACTIONS:
        words = f"medpretrain3d study run {args.action}"
        hint = did_you_mean(args.action, ACTIONS) if args.document else f"; did you mean `{words}`?"
        raise UserError(f"study: got '{args.action}', wanted {', '.join(ACTIONS)} and a document{hint}")
    if args.document is None:
        raise UserError(f"study {args.action}: wanted a document, as in medpretrain3d study {args.action} demo")
    return read_study(find_recipe(args.document, "study"), dict(map(_change, args.set)))


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or key not in KEYS:
        raise UserError(f"--set {text}: wanted KEY=VALUE, KEY one of {', '.join(KEYS)}{did_you_mean(key, KEYS)}")
    try:
        return key, load_recipe(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: its value is no YAML ({' '.join(str(error).split())})") from error
