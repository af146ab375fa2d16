"""Runs that were started wrongly under SLURM, by the variables that it sets."""

from __future__ import annotations

import pytest

from medpretrain3d.command_line.launched import check_launch, is_first_process, is_task
from medpretrain3d.errors import UserError

BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
"""What the script of a job sees, whatever was asked for (SLURM 22.05)."""
EIGHT = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "1"}
TASK = {**BATCH, "SLURM_STEP_ID": "0"}


def refusal(num_devices: int, num_nodes: int, environment: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        check_launch(num_devices, num_nodes, environment)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("num_devices", "num_nodes", "environment"),
    [
        (8, 1, {}),
        (8, 1, {**TASK, **EIGHT}),
        (4, 2, {**TASK, **EIGHT, "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}),
        (8, 1, {**TASK, **EIGHT, "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}),
        (8, 1, BATCH),  # --gpus=8 alone: the program starts its own processes
        (1, 1, {**BATCH, "SLURM_NTASKS": "1"}),
        (1, 1, {**BATCH, **EIGHT}),
        (1, 1, {**TASK, **EIGHT}),  # eight runs
        (8, 1, {**BATCH, "SLURM_NTASKS": "1", "TORCHELASTIC_RUN_ID": "none"}),
        (8, 1, {**BATCH, **EIGHT, "SLURM_JOB_NAME": "interactive"}),
    ],
)
def test_what_fits_is_let_through(num_devices, num_nodes, environment):
    check_launch(num_devices, num_nodes, environment)


@pytest.mark.parametrize("tasks", [EIGHT, {"SLURM_NTASKS": "1"}, {"SLURM_NTASKS": "8"}])
def test_several_processes_without_srun(tasks):
    said = refusal(8, 1, {**BATCH, **tasks})
    assert f"started without srun, in a job of {tasks['SLURM_NTASKS']} tasks" in said
    assert said.endswith(
        "wanted `srun medpretrain3d ...` in a job with #SBATCH --nodes=1 and #SBATCH --ntasks-per-node=8"
    )


@pytest.mark.parametrize("step", ["4294967290", "4294967291"])
def test_the_shell_of_an_allocation_is_no_task(step):
    assert not is_task({"SLURM_STEP_ID": step})
    assert "started without srun" in refusal(8, 1, {**BATCH, **EIGHT, "SLURM_STEP_ID": step})


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_number_of_tasks_that_says_nothing_of_nodes(num_devices):
    said = refusal(num_devices, 1, {**TASK, "SLURM_NTASKS": "2", "SLURM_NNODES": "1"})
    assert "got 2 tasks by --ntasks, " in said
    assert f"--ntasks-per-node={num_devices} instead" in said


@pytest.mark.parametrize(
    ("num_devices", "num_nodes", "tasks"),
    [
        (4, 1, EIGHT),
        (8, 2, EIGHT),
        (8, 1, {"SLURM_NTASKS": "16", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "2"}),
        (8, 1, {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "1"}),
        (8, 1, {"SLURM_NTASKS": "1"}),
    ],
)
def test_devices_that_do_not_match_the_tasks(num_devices, num_nodes, tasks):
    said = refusal(num_devices, num_nodes, {**TASK, **tasks})
    assert f"got {tasks['SLURM_NTASKS']} tasks on {tasks.get('SLURM_NNODES', 1)} nodes" in said
    assert f"--nodes={num_nodes} and #SBATCH --ntasks-per-node={num_devices}, or trainer.devices" in said


def test_tasks_that_see_one_gpu_each():
    said = refusal(8, 1, {**TASK, **EIGHT, "CUDA_VISIBLE_DEVICES": "3"})
    assert "got trainer.devices 8, and this task sees 1 GPU (CUDA_VISIBLE_DEVICES 3)" in said
    assert "wanted #SBATCH --gpus-per-node=8" in said


def test_one_of_several_processes_speaks():
    assert is_first_process({})
    assert is_first_process({**TASK, **EIGHT})
    assert not is_first_process({**TASK, **EIGHT, "SLURM_PROCID": "3"})
    assert is_first_process({**BATCH, **EIGHT, "SLURM_PROCID": "3"})  # of no step
    assert not is_first_process({"RANK": "1", "LOCAL_RANK": "0"})
    assert not is_first_process({"LOCAL_RANK": "1"})
    assert is_first_process({"LOCAL_RANK": "0", "NODE_RANK": "0"})
    assert not is_first_process({"NODE_RANK": "1"})  # the first of its node, as one starts the nodes by hand
    assert not is_first_process({"LOCAL_RANK": "0", "GROUP_RANK": "1"})
