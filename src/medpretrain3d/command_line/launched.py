"""Whether SLURM started the processes that a run asks for: otherwise they would wait for each other for ever."""

from __future__ import annotations

import os
from collections.abc import Mapping

from medpretrain3d.errors import UserError

INTERACTIVE = ("bash", "interactive")
"""Names of jobs in which Lightning, too, leaves SLURM's variables alone."""
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
"""Steps of SLURM's own, such as the shell of `salloc` and the batch script, are numbered from here on."""


def is_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `srun` started this process."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _FIRST_SPECIAL_STEP


def counts_tasks(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether SLURM's variables say which process of a run this one is; torchrun's own count more."""
    return (
        "SLURM_NTASKS" in environment
        and "TORCHELASTIC_RUN_ID" not in environment
        and environment.get("SLURM_JOB_NAME") not in INTERACTIVE
    )


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is the first of a run, as far as launchers say before the trainer exists."""
    if counts_tasks(environment) and is_task(environment):
        return environment.get("SLURM_PROCID", "0") == "0"
    if "RANK" in environment:
        return environment["RANK"] == "0"
    node = environment.get("NODE_RANK", environment.get("GROUP_RANK", "0"))  # in the order that Lightning looks
    return environment.get("LOCAL_RANK", "0") == node == "0"


def check_launch(num_devices: int, num_nodes: int, environment: Mapping[str, str] = os.environ) -> None:
    """Compare the processes that a run asks for with those that SLURM started.

    Args:
        num_devices: of each node, which is also the number of processes there.
        num_nodes: of the run.
        environment: of the process.

    Raises:
        UserError: others were started, or this one without `srun`; says what to write into the job.
    """
    if not counts_tasks(environment):
        return
    num_tasks, num_processes = _number(environment, "SLURM_NTASKS"), num_devices * num_nodes
    asked = f"trainer.devices {num_devices} x trainer.num_nodes {num_nodes}"
    wanted = f"#SBATCH --nodes={num_nodes} and #SBATCH --ntasks-per-node={num_devices}"
    if num_processes > 1 and not is_task(environment):
        raise UserError(
            f"SLURM: {asked} are {num_processes} processes, and this one was started without srun, in a job of "
            f"{num_tasks} tasks: the others would never come; wanted `srun medpretrain3d ...` in a job with {wanted}"
        )
    if num_tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        raise UserError(
            f"SLURM: got {num_tasks} tasks by --ntasks, which does not say how many a node has; wanted {wanted} instead"
        )
    if num_processes == 1:
        return  # a run of its own, whatever else the job is made of
    per_node, nodes = _number(environment, "SLURM_NTASKS_PER_NODE"), _number(environment, "SLURM_NNODES")
    if (per_node, nodes, num_tasks) != (num_devices, num_nodes, num_processes):
        raise UserError(
            f"SLURM: got {num_tasks} tasks on {nodes} nodes, {per_node} on each, and {asked}; wanted as many tasks on "
            f"each node as devices: {wanted}, or trainer.devices {per_node} and trainer.num_nodes {nodes}"
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and 0 < (num_visible := len([one for one in visible.split(",") if one])) < num_devices:
        raise UserError(
            f"SLURM: got trainer.devices {num_devices}, and this task sees {num_visible} GPU (CUDA_VISIBLE_DEVICES "
            f"{visible}); wanted #SBATCH --gpus-per-node={num_devices}, without --gpus-per-task or --gpu-bind: each "
            "task sees all GPUs of its node and takes the one of its number"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "1")
    return int(text) if text.isdecimal() else 1
