"""Print a script that completes commands, options, choices, classes and recipes in a shell when TAB is pressed.

For bash: medpretrain3d completion bash > ~/.local/share/bash-completion/completions/medpretrain3d
For zsh, into a folder of $fpath: medpretrain3d completion zsh > _medpretrain3d
"""

from __future__ import annotations

import argparse

from medpretrain3d.command_line.recipes import recipe_names
from medpretrain3d.command_line.signatures import trainer_options
from medpretrain3d.command_line.stage_help import stage_options
from medpretrain3d.command_line.stages import OPTIONS, STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="whose script to print")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    print(shtab.complete(program_parser(), shell=args.shell))
    return 0


def program_parser() -> argparse.ArgumentParser:
    """Return a parser of the whole program, which knows what there is and checks nothing."""
    from medpretrain3d.cli import COMMANDS, command_parser  # which imports this module by name
    from medpretrain3d.commands.study import ACTIONS

    parser = argparse.ArgumentParser("medpretrain3d")
    commands = parser.add_subparsers()
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, add_help=False)
        for action in command_parser(name)._actions:
            choices = list(action.choices) if action.choices else None
            if action.option_strings:
                command.add_argument(*action.option_strings, choices=choices, help=action.help)
            else:
                command.add_argument(action.dest, nargs="*", choices=choices)
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text)
        stage.add_argument("--config", choices=recipe_names(name))
        known = stage_options(name)
        for option in (*(one for one in OPTIONS if one != "--config"), *known):
            stage.add_argument(option, choices=known.get(option) or None)
        if name == "finetune":
            stage.add_argument("--folds", choices=["all"])
        for option in sorted(trainer_options()):
            stage.add_argument(f"--trainer.{option}")
    for action in commands.choices["study"]._actions:
        if action.dest == "action":
            action.choices, action.nargs = ACTIONS, None
        if action.dest == "document":
            action.choices = recipe_names("study")
    return parser
