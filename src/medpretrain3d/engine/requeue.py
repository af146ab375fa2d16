"""A job of SLURM that is about to be stopped is queued again.

`interruption.NOTICE` says so, and ends a run as any other signal does: between two steps, with its state kept. SIGTERM
asks for nothing: SLURM itself queues a job again that it preempts, and a cancelled one shall stay so.
"""

from __future__ import annotations

import os
import subprocess

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


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
