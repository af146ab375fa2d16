"""A study as a list of programs, each with the file that shows that it is done."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class Step:
    """One program of a study."""

    name: str
    product: Path
    """Exists once the step has ended well; programs write it last and whole."""
    command: tuple[str, ...]
    """Program and arguments; `medpretrain3d` and `python` stand for those of the running interpreter."""


def read_chain(path: Path) -> list[Step]:
    """Read a study document: `folder`, and `steps` of `name`, `product` (below `folder`) and `run`.

    `{folder}` in a command is replaced by the study's folder.

    Raises:
        UserError: the file is missing, no YAML, or a step lacks one of its three entries.
    """
    return _read(path)[1]


def read_folder(path: Path) -> Path:
    """The folder of a study document.

    Raises:
        UserError: as `read_chain`.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Path, list[Step]]:
    try:
        document = read_yaml(Path(path), "mend it, or give a document from configs/study/")
        folder = Path(document["folder"])
        steps = [_step(entry, folder) for entry in document["steps"]]
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: got an entry without {error}, wanted `folder` and `steps` of `name`, `product` and `run`"
        ) from error
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two steps have the same name; names: {', '.join(names)}")
    return folder, steps


def run_chain(steps: Sequence[Step]) -> None:
    """Run every step whose product does not exist yet, in order.

    Raises:
        UserError: a program failed, or ended without its product; what was finished before is kept.
    """
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        if step.product.exists():
            print(f"{head}: reused, {step.product} exists", flush=True)
            continue
        print(f"{head}: {shlex.join(step.command)}", flush=True)
        started = time.monotonic()
        code = subprocess.run(_here(step.command)).returncode
        if code:
            raise UserError(
                f"step '{step.name}' ended with exit code {code}; mend what it says above and call again: "
                "finished steps are reused"
            )
        if not step.product.exists():
            raise UserError(f"step '{step.name}' ended well but did not write {step.product}; correct its `product`")
        print(f"{head}: done in {time.monotonic() - started:.0f} s", flush=True)


def _step(entry: dict[str, Any], folder: Path) -> Step:
    command = shlex.split(entry["run"].replace("{folder}", str(folder)))
    return Step(entry["name"], folder / entry["product"], tuple(command))


def _here(command: tuple[str, ...]) -> list[str]:
    program, *arguments = command
    if program == "python":
        return [sys.executable, *arguments]
    if program == "medpretrain3d":
        return [sys.executable, "-m", "medpretrain3d.cli", *arguments]
    return list(command)
