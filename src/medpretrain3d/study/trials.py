"""First steps of a study's jobs, run to learn how long each will take."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import nested
from medpretrain3d.command_line.recipes import recipe_text
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import end_with_parent
from medpretrain3d.study.curves import read_curves
from medpretrain3d.study.design import Study
from medpretrain3d.study.inputs import short_hash
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.progress import Progress
from medpretrain3d.study.speeds import SPEED

TRIALS = "trials"
"""Folder of the study that they write into."""
MIN_STEPS = 10
"""Steps over which speed is measured."""
POLL_S = 0.5


def trials_folder(study: Study) -> Path:
    """Return where the first steps of a study's jobs are."""
    return study.folder / TRIALS


def try_steps(progress: Progress, num_steps: int) -> list[str]:
    """Run the first steps of a job of each kind that no run says the speed of, one after another.

    Jobs whose data are not there yet are left out, and so are those that need weights which are not there.

    Args:
        progress: of the study.
        num_steps: at least `MIN_STEPS`.

    Returns:
        A line for each that was tried, or could not be.

    Raises:
        UserError: too few steps.
    """
    if num_steps < MIN_STEPS:
        raise UserError(f"--try-steps {num_steps}: speed is measured over {MIN_STEPS} steps; give as many at least")
    lines = []
    tried: set[tuple[str, ...]] = set()
    for job in progress.jobs.jobs:
        if job.kind == "prepare" or not job.is_known or job.needs or progress.speeds.of(job) is not None:
            continue
        if (like := progress.speeds.like(job)) not in tried:
            tried.add(like)
            lines.append(_tried(progress.study, job, num_steps))
    return lines


def _tried(study: Study, job: Job, num_steps: int) -> str:
    folder = trials_folder(study)
    name = f"{job.kind}-{short_hash(job.recipe)}"
    shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    own: dict[str, Any] = {
        "run.root": str(folder.parent),
        "run.group": TRIALS,
        "run.name": name,
        "run.wandb": "disabled",
    }
    own |= {"trainer.log_every_n_steps": 1}
    words = [sys.executable, "-m", "medpretrain3d", job.kind]
    for number, layer in enumerate([*job.layers, nested(own)]):
        path = folder / f"{name}-{number}.yaml"
        path.write_text(recipe_text(dict(layer)), encoding="utf-8")
        words += ["--config", str(path)]
    said = _run_until(words, folder / name / "metrics.csv", num_steps, folder / f"{name}.log")
    shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
    return f"{job.name}: {said}"


def _run_until(words: list[str], curves: Path, num_steps: int, log: Path) -> str:
    """Run a program until its curves have so many steps, and end it; return what came of it."""
    with log.open("wb") as stream:
        program = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
        )
    try:
        while program.poll() is None and _num_steps(curves) < num_steps:
            time.sleep(POLL_S)
    finally:
        program.terminate()
        program.wait()
    if _num_steps(curves) >= MIN_STEPS:
        return f"{num_steps} first steps tried"
    last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"its first steps failed, {last[-1][:300] if last else 'without a word'}"


def _num_steps(path: Path) -> int:
    with suppress(UserError, OSError):
        found = read_curves(path)
        return int(found[SPEED].steps[-1]) + 1 if SPEED in found else 0
    return 0
