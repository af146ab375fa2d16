from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medpretrain3d.threads import available_cores, num_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with an affinity and files of control groups."""

    def make(cores, **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3, 3 + cores)))
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, 1, 1), (2, 1, 2), (2, 2, 1), (2, 4, 1), (8, 1, 8), (8, 3, 2), (64, 8, 8), (7, 2, 3)],
)
def test_processes_share_the_cores_of_the_affinity(machine, cores, processes, expected):
    root = machine(cores)
    assert available_cores({}, root) == cores
    assert num_threads(processes, {}, root) == expected


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/outside/of/it\n", {"cpu.max": "400000 100000"}, 4),
        (
            "5:cpu,cpuacct:/x\n2:memory:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("5:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 8),
        ("nonsense\n", {"cpu.max": "half"}, 8),
    ],
)
def test_a_container_s_quota_counts(machine, group, files, expected):
    root = machine(8, **{"proc/self/cgroup": group, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})
    assert available_cores({}, root) == num_threads(1, {}, root) == expected


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 4, 3),  # the user's word, whatever there is
        ({"OMP_NUM_THREADS": "16"}, 1, 16),
        ({"OMP_NUM_THREADS": "4,2"}, 1, 4),
        ({"OMP_NUM_THREADS": ""}, 1, 8),
        ({"OMP_NUM_THREADS": "all"}, 1, 8),
        ({"OMP_NUM_THREADS": "0"}, 1, 8),
        ({"SLURM_CPUS_PER_TASK": "4"}, 1, 4),
        ({"SLURM_CPUS_PER_TASK": "4"}, 2, 2),  # one task that starts two processes
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, 2, 4),  # each task has its own
        ({"SLURM_CPUS_PER_TASK": "16", "SLURM_TASKS_PER_NODE": "2"}, 2, 8),  # no more than the affinity
        ({"SLURM_TASKS_PER_NODE": "2"}, 2, 4),
    ],
)
def test_the_user_and_slurm_are_obeyed(machine, environment, processes, expected):
    assert num_threads(processes, environment, machine(8)) == expected


def test_torch_numba_and_children_take_one_number():
    code = (
        "import os, sys, subprocess\n"
        "import torch\n"
        "from medpretrain3d.threads import use_threads\n"
        "os.sched_getaffinity = lambda _: set(range(6))\n"
        "said = use_threads(2)\n"
        "print(said, '|', torch.get_num_threads(), os.environ['OMP_NUM_THREADS'], os.environ['NUMBA_NUM_THREADS'])\n"
        "os.environ['OMP_NUM_THREADS'] = '2'\n"
        "print(use_threads(2), '|', torch.get_num_threads())\n"
    )
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    environment = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "threads: 3 in each of 2 processes (6 cores) | 3 3 3",
        "threads: 2 in each of 2 processes (OMP_NUM_THREADS is 2) | 2",
    ]
