"""Whose a run's folder is: nothing is overwritten or removed in one that this program did not make."""

from __future__ import annotations

import os
from pathlib import Path

from medpretrain3d.atomic import write_text
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.atomic.leftovers import remove
from medpretrain3d.atomic.lock import LOCK
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata, read_run_metadata

RUN = "run.json"
PRODUCTS = (
    *("config.yaml", "metrics.csv", "log.txt", "checkpoints", "snapshots", "encoder", "bundle"),
    *("validation", "test", "previews"),
)
"""What a run writes beside `run.json`, which is there first."""
ADVICE = "give another run.name, or take the folder away"


def claim_run(folder: Path, metadata: RunMetadata, restart: bool) -> None:
    """Make a run's folder ours, by a `run.json` in it before anything else.

    Args:
        folder: of the run; a link to one stays a link.
        metadata: of the run, its stage among them.
        restart: whether the earlier run in it is thrown away.

    Raises:
        UserError: what is in the folder is not of this program, or other runs lie below it.
    """
    path = folder / RUN
    if path.exists():
        if not restart:
            return
        _check_ours(folder)
        write_text(path, _text(metadata))  # should what follows be interrupted: a run that has not begun
        with disk_errors(folder):
            for name in sorted(os.listdir(folder)):
                if name not in (RUN, LOCK):
                    remove(folder / name)
        return
    found = next((name for name in PRODUCTS if os.path.lexists(folder / name)), None)
    if found:
        raise UserError(f"{folder}: holds a {found} and no {RUN}, so it is not of this program; {ADVICE}")
    write_text(path, _text(metadata))


def _check_ours(folder: Path) -> None:
    path = folder / RUN
    try:
        stage = read_run_metadata(path).stage
    except UserError:
        stage = None
    if stage not in ("pretrain", "finetune"):
        raise UserError(f"{path}: is not that of a run of this program, so nothing is removed; {ADVICE}")
    other = next((one for one in sorted(folder.rglob(RUN)) if one != path), None)
    if other:
        raise UserError(f"{folder}: holds another run, {other.parent.relative_to(folder)}; {ADVICE}")


def _text(metadata: RunMetadata) -> str:
    return RUN_DOCUMENT.text(metadata.to_json(), indent=2)
