"""`medpretrain3d <command>`: the two stages, and everything around them."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from medpretrain3d import __version__
from medpretrain3d.command_line.all_folds import as_cross_validation, wants_folds
from medpretrain3d.command_line.installation import programs_folder
from medpretrain3d.command_line.launched import is_first_process
from medpretrain3d.command_line.parser import CommandParser
from medpretrain3d.command_line.stages import STAGES
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.commands.numbers import check_numbers
from medpretrain3d.errors import UserError, exit_code
from medpretrain3d.failure import explain, silence_closed_output
from medpretrain3d.imports import uncollected_imports
from medpretrain3d.interruption import NOTICE, Interrupted, requeue, signals
from medpretrain3d.lines import print_line
from medpretrain3d.plugins import OPTION, take_plugins

# A command's module is imported only when the command is asked for: `--help` and `evaluate` need not wait for torch.
COMMANDS = {
    "phantom": "write synthetic chest CTs with nodules, as NIfTI files with masks and boxes",
    "datasets": "list the data sets and layouts that prepare reads",
    "prepare": "read raw volumes and labels into a store",
    "pseudo": "find objects in the scans of a store without labels, for a detector to learn before its first label",
    "pack": "convert a store to one of many cases per file, or back",
    "cache": "list copies of stores on this machine, and remove those not in use",
    "split": "deal out a store's cases to folds and label budgets",
    "plan": "choose spacing, patch, network and anchors for a store and a memory, or check a plan",
    "targets": "write the true boxes of a store's split as JSON",
    "predict": "find boxes in scans with a detector bundle",
    "tune": "choose how a bundle merges boxes, by its validation scans",
    "test": "predict and score a labelled data set, such as an external test set",
    "cross-validate": "make one result of the runs of all folds",
    "rescore": "give the detectors of a cross-validation a second look at what they found",
    "restrict": "leave out candidates outside of an organ, and count what that drops against the truth",
    "evaluate": "score predictions against targets, with intervals",
    "compare": "test the difference between two prediction files",
    "study": "plan, run and report a study: one document, many runs, one answer",
    "report": "make one HTML page from run folders",
    "sweep": "search options of a stage by many runs, by the file of a wandb sweep and without a server",
    "workspace": "make the dashboard of a project at wandb: arms side by side",
    "inspect": "tell what a checkpoint, encoder file, bundle or store holds",
    "probe": "judge encoders by a linear layer on their frozen features, before any training",
    "export": "write an encoder as safetensors or as an nnssl checkpoint, with a model card",
    "export-detector": "write the network of a bundle as ONNX or for torch.export",
    "backbones": "list the encoders: levels, parameters, arithmetic, memory, paper",
    "completion": "print a script that completes all of this in a shell",
    "doctor": "check that the installed libraries work together",
}


_PLUGINS_HELP = "package of your own whose networks, data sets, checkpoint formats or writers are used; repeatable"


def main(args: Sequence[str] | None = None) -> int:
    """Run one command, or a stage.

    Returns:
        The exit code: 0; 1 when some inputs were left out, or for want of memory, disk or the like; 2 on bad input;
        128 plus the signal that ended it (130 after Ctrl-C, 141 where nobody reads its output any more, 143 after
        SIGTERM).

    Raises:
        SystemExit: with 2, after an option or command that does not exist; a stage ends so as well.
    """
    try:
        try:
            code = _main(list(sys.argv[1:] if args is None else args))
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, and not at the end of Python, which would say that nobody reads it
        return code
    except BrokenPipeError:
        if not silence_closed_output():
            raise
        return 128 + signal.SIGPIPE


def _main(words: list[str]) -> int:
    if words and words[0] in STAGES and not (words[0] == "finetune" and wants_folds(words)):
        return _run_stage(words[0], words[1:])
    signals.take()
    signals.mode, signals.farewell = "exit", _farewell
    try:
        return _run(words)
    finally:
        signals.give_back()


def _run_stage(name: str, words: Sequence[str]) -> int:
    sys.path.insert(0, str(programs_folder()))
    importlib.import_module(f"{name}.__main__").run(words)
    return 0


def command_parser(name: str) -> CommandParser:
    """Return the parser of one command."""
    command = command_module(name)
    parser = CommandParser(
        prog=f"medpretrain3d {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument(OPTION, action="append", default=[], metavar="PACKAGE", help=_PLUGINS_HELP)
    return parser


def command_module(name: str) -> Any:
    """Return the module of one command."""
    with uncollected_imports():
        return importlib.import_module(f"medpretrain3d.commands.{name.replace('-', '_')}")


def _run(words: Sequence[str]) -> int:
    try:
        words = take_plugins(words)
    except UserError as error:
        print_line(f"error: {error}", to_stderr=True)
        return 2
    try:
        if words[:1] == ["finetune"] and wants_folds(words):
            words = as_cross_validation(words[1:])
    except UserError as error:
        print_line(f"error: {error}", to_stderr=True)
        return 2
    if words and words[0] in STAGES:  # which `--plugins` stood before
        return _run_stage(words[0], words[1:])
    parser = CommandParser(
        prog="medpretrain3d",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:<17}{text}" for name, text in {**STAGES, **COMMANDS}.items()),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", metavar="command", help="one of the commands below")
    name = parser.parse_args(words[:1] or ["--help"]).command.replace("_", "-")
    if name not in COMMANDS:
        hint = did_you_mean(name, {**STAGES, **COMMANDS})
        parser.error(f"unknown command '{name}'{hint or '; medpretrain3d --help lists them'}")
    command, subparser = command_module(name), command_parser(name)
    try:
        options = subparser.parse_args(words[1:])
        check_numbers(subparser, options)
        signals.mode = "raise"
        signals.check()
        with command.lock(options) if hasattr(command, "lock") else nullcontext():
            return int(command.run(options))
    except (Interrupted, KeyboardInterrupt) as ended:
        return _end_of(ended.signum if isinstance(ended, Interrupted) else signal.SIGINT)
    except Exception as error:
        if signals.received is not None:  # which ended its workers, too
            return _end_of(signals.received)
        if isinstance(error, UserError):
            print_line(f"error: {error}", to_stderr=True)
            return exit_code(error)
        message = explain(error, getattr(command, "SAVES_MEMORY", "end other programs, or take a machine with more"))
        if message is None:
            raise
        print_line(f"error: {message}", to_stderr=True)
        return 1


def _end_of(signum: int) -> int:
    print_line(_farewell(signum), to_stderr=True)
    return 128 + signum


def _farewell(signum: int) -> str:
    said = f"interrupted by {signal.Signals(signum).name}; what was finished is kept"
    return f"{said}; {requeue()}" if signum == NOTICE and is_first_process() else f"{said}, call again to go on"


if __name__ == "__main__":
    raise SystemExit(main())
