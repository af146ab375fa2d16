"""The reference of the command line: what `medpretrain3d --help` lists, and what each command says with `--help`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from medpretrain3d import cli

HEAD = """# Commands

Every command, as it describes itself with `--help`. Exit codes are 0 when what was asked was done, 1 when some inputs
were left out or memory or disk ran short, 2 for bad input, and 128 plus the signal that ended it.

"""
WIDTH = "100"
STAGES = ("pretrain", "finetune")


def write_commands(path: Path) -> None:
    """Write the page."""
    os.environ["COLUMNS"] = WIDTH
    names = listed(help_of([]))
    commands = [name for name in names if name not in STAGES]
    parts = [f"## {name}\n\n```text\n{help_of([name]).strip()}\n```\n" for name in commands]
    parts += [f"## {name}\n\n```text\n{stage_help(name).strip()}\n```\n" for name in STAGES]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "\n".join(parts), encoding="utf-8")


def listed(text: str) -> list[str]:
    """The names under "commands:" of the program's help."""
    return re.findall(r"^  ([a-z][a-z-]*) {2,}\S", text.partition("commands:\n")[2], re.MULTILINE)


def help_of(words: list[str]) -> str:
    """What a command prints with `--help`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


def stage_help(name: str) -> str:
    """What a stage prints with `--help`, in a process of its own: a stage takes signals and ends its process."""
    command = [sys.executable, "-W", "ignore", "-m", "medpretrain3d.cli", name, "--help"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    text = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    _, _, options = text.partition("\n\n")  # its usage names every option of the list below once more
    return f"usage: medpretrain3d {name} [--config RECIPE] [options]\n\n{options}"
