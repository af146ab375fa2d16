"""First steps of a study's jobs, run to learn how long each will take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from medpretrain3d.command_line.composition import nested
from medpretrain3d.command_line.recipes import recipe_text
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import Study
from medpretrain3d.study.inputs import short_hash
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.progress import Progress

TRIALS = "trials"
"""Folder of the study that they write into."""
MIN_STEPS = 10
"""Steps over which speed is measured."""


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
    own = {
        **{"run.root": str(folder.parent), "run.group": TRIALS, "run.name": name, "run.wandb": "disabled"},
        **{"trainer.max_steps": num_steps, "trainer.val_check_interval": num_steps, "trainer.log_every_n_steps": 1},
        **{"trainer.limit_val_batches": 0, "trainer.limit_test_batches": 0},
    }
    words = [sys.executable, "-m", "medpretrain3d.cli", job.kind]
    for number, layer in enumerate([*job.layers, nested(own)]):
        path = folder / f"{name}-{number}.yaml"
        path.write_text(recipe_text(dict(layer)), encoding="utf-8")
        words += ["--config", str(path)]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if (folder / name / "metrics.csv").is_file():
        return f"{job.name}: {num_steps} first steps tried"
    said = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
    return f"{job.name}: its first steps failed, {said[-1][:300] if said else f'exit code {ended.returncode}'}"
