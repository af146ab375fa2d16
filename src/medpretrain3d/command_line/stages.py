"""The stages as commands: what is done with their command line before their imports, which take seconds."""

from __future__ import annotations

from collections.abc import Sequence

from medpretrain3d.command_line.launched import is_first_process
from medpretrain3d.command_line.parser import respelled
from medpretrain3d.command_line.precheck import precheck
from medpretrain3d.command_line.recipes import expand_recipes
from medpretrain3d.command_line.stage_help import stage_help
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import signals
from medpretrain3d.lines import print_line

STAGES = {
    "pretrain": "stage 1: train an objective on stores, for an encoder file",
    "finetune": "stage 2: train a detector on a labelled store, for a bundle and its test",
}
OPTIONS = ("--config", "--seed_everything", "--print_config", "--ckpt_path", "--weights_only")
"""Options of a stage without a dot."""
FIT = "fit"
"""The one thing that a stage does; the word may be left out."""


def stage_words(args: Sequence[str], stage: str) -> list[str]:
    """Return the words of a stage's command line as its parser takes them.

    Raises:
        UserError: a recipe does not exist or cannot be read.
    """
    words = args[1:] if args and args[0] == FIT else args
    return [FIT, *expand_recipes(respelled(words, OPTIONS), stage)]


def begin(stage: str, args: Sequence[str]) -> None:
    """Take signals, and look at what can be looked at without torch: an error is said within a second.

    Raises:
        SystemExit: with 2 after bad input, which is said in one line; with 0 after the help.
    """
    signals.take()
    if any(word in ("-h", "--help") for word in args):
        print_line(stage_help(stage))
        raise SystemExit(0)
    try:
        precheck(stage, stage_words(args, stage)[1:])
    except UserError as error:
        if is_first_process():  # of several one says it
            print_line(f"error: {error}", to_stderr=True)
        raise SystemExit(2) from error
