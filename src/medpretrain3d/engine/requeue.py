"""Lightning's own answer to SLURM's notice, which this program does without (`interruption.requeue`).

The notice ends a run as any other signal does: between two steps, with its state kept. SIGTERM asks for nothing: SLURM
itself queues a job again that it preempts, and a cancelled one shall stay so.
"""

from __future__ import annotations

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
