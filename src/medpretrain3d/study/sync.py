"""Sends runs to wandb that were kept offline, by wandb's own program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from medpretrain3d.atomic import locked_folder
from medpretrain3d.atomic.lock import InUse
from medpretrain3d.errors import UserError
from medpretrain3d.lines import print_line

SENT = ".synced"
"""Ending of the file by which wandb remembers that it has sent one."""


def sync_runs(folder: Path) -> int:
    """Send what was kept offline in and below a folder, run by run; what was sent is not sent again.

    A continued run consists of several parts, which wandb puts together. A run that is going on is left for later, and
    one whose folder cannot be locked, as on a disk that is full or read-only, is named with the reason.

    Returns:
        The exit code: 0 once all is sent, 1 where something was not.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a study, or a folder of runs such as runs/")
    waiting = unsent(folder)
    num_sent, num_going_on = 0, 0
    for run, parts in waiting.items():
        try:
            with locked_folder(run, clean=False):
                _send(run, parts)
        except InUse:
            num_going_on += 1
            print_line(f"{run}: is going on, left for later")
            continue
        except UserError as error:
            print_line(f"{run}: not sent: {error}")
            continue
        left = [part for part in parts if not _is_sent(part)]
        num_sent += not left
        print_line(f"{run}: {f'not sent, {len(left)} of {len(parts)} parts are left' if left else 'sent'}")
    print_line(
        f"{folder}: {num_sent} of {len(waiting)} runs sent{f', {num_going_on} going on' if num_going_on else ''}"
    )
    return 0 if num_sent == len(waiting) else 1


def unsent(folder: Path) -> dict[Path, list[Path]]:
    """Return the parts of runs in and below a folder that are to be sent, the earliest first, by the run's folder."""
    found: dict[Path, list[Path]] = {}
    for part in sorted(_below(folder)):
        if not _is_sent(part):
            found.setdefault(part.parents[1], []).append(part)
    return found


def _below(folder: Path) -> Iterable[Path]:
    # A study has links to its runs, which `rglob` does not follow.
    return (path for path in folder.rglob("offline-run-*") if path.is_dir() and path.parent.name == "wandb")


def _is_sent(part: Path) -> bool:
    return any(part.glob(f"run-*.wandb{SENT}"))


def _send(run: Path, parts: Iterable[Path]) -> None:
    # Inside of the run's folder, because that is what names of files in it are relative to.
    words = [sys.executable, "-m", "wandb", "sync", *(str(part.relative_to(run)) for part in parts)]
    subprocess.run(words, cwd=run, check=False)
