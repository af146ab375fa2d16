"""SLURM's notice that a job is about to be stopped, answered by asking for the job to be queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.fabric.plugins.environments import SLURMEnvironment

from medpretrain3d.engine.distributed import say

NOTICE = signal.SIGUSR1
"""What `#SBATCH --signal=USR1@90` sends 90 seconds before the end; without a job of SLURM it has no meaning here."""


class Requeue(L.Callback):
    """Ends a run between two steps after the notice, with its state kept and its job queued again.

    In a validation or test, where processes have different numbers of cases and cannot agree, each ends before its next
    case: the state was kept before.

    SIGTERM asks for nothing: SLURM itself queues a job again that it preempts, and a cancelled one shall stay so.

    Args:
        folder: of the run.
        save: keeps the state of a trainer; every process calls it.
    """

    def __init__(self, folder: Path, save: Callable[[L.Trainer], None]) -> None:
        self._folder = folder
        self._save = save
        self._is_told = False
        # From here on, because without a handler the notice ends the process.
        if is_job() and threading.current_thread() is threading.main_thread():
            signal.signal(NOTICE, self._hear)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two steps."""
        if not is_job() or batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self._is_told, all=False):
            if trainer.global_step:
                self._save(trainer)
            self._end(trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Before each case."""
        if self._is_told and not trainer.sanity_checking:
            self._end(trainer)

    def on_test_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Before each case."""
        if self._is_told:
            self._end(trainer)

    def _hear(self, *_: Any) -> None:
        self._is_told = True

    def _end(self, trainer: L.Trainer) -> NoReturn:
        if trainer.is_global_zero:
            say(f"{self._folder}: interrupted by {NOTICE.name} at step {trainer.global_step}; {requeue()}")
        raise SystemExit(128 + NOTICE)


def is_job() -> bool:
    """Return whether this process belongs to a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


def leave_requeue_alone(trainer: L.Trainer) -> None:
    """Keep Lightning from its own answer.

    It writes `hpc_ckpt_N.ckpt` wherever in a step the notice comes, ignores it where another checkpoint is named, and
    loads it in silence into whatever model is tested in that folder later.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


def requeue() -> str:
    """Ask SLURM to start this job again; to be called by one process, once the state is kept.

    Returns:
        What came of it, as the end of a sentence.
    """
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=30)
        reason = " ".join(done.stderr.split())[:200] if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is not None:
        return f"SLURM did not queue job {job} again ({reason}); submit it, and it continues"
    return f"SLURM queues job {job} again, and it continues"
