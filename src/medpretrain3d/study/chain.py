"""A study as a list of programs, each with the file that shows that it is done."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.failure import death
from medpretrain3d.interruption import GRACE_S, NOTICE, Interrupted, end_with_parent, signals

INTERRUPTED = {128 + signum for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, NOTICE)}
"""Exit codes of programs that were told to end."""


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
    """Return the folder of a study document.

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
        Interrupted: this process or a program was told to end.
    """
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        if step.product.exists():
            print(f"{head}: reused, {step.product} exists", flush=True)
            continue
        print(f"{head}: {shlex.join(step.command)}", flush=True)
        started = time.monotonic()
        code = _run_step(step)
        if code in INTERRUPTED:
            print(f"step '{step.name}' was interrupted (exit code {code})", file=sys.stderr)
            raise Interrupted(code - 128)
        if code < 0:
            message = death(f"step '{step.name}'", code, "lower what its line above names, or take a machine with more")
            raise UserError(f"{message}; call again: finished steps are reused, training continues where it was")
        if code:
            raise UserError(
                f"step '{step.name}' ended with exit code {code}; mend what it says above and call again: "
                "finished steps are reused"
            )
        if not step.product.exists():
            raise UserError(f"step '{step.name}' ended well but did not write {step.product}; correct its `product`")
        print(f"{head}: done in {time.monotonic() - started:.0f} s", flush=True)


def _run_step(step: Step) -> int:
    """Run a program to its end; it hears of the signals that this one gets, and ends with this one."""
    program = subprocess.Popen(_here(step.command), preexec_fn=partial(end_with_parent, signal.SIGTERM))

    def pass_on(signum: int) -> None:
        program.send_signal(signum)

    # The program ends by itself and says how it goes on; only when it does not, this one ends it.
    before = signals.mode, signals.grace_s
    signals.mode, signals.grace_s = "note", GRACE_S + 5
    signals.listeners.append(pass_on)
    signals.before_exit.append(program.kill)
    try:
        if signals.received is not None:  # just before it could be passed on
            pass_on(signals.received)
        code = program.wait()
    finally:
        signals.listeners.remove(pass_on)
        signals.before_exit.remove(program.kill)
        signals.mode, signals.grace_s = before
    signals.check()
    return code


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
