"""How many threads a process computes with: all cores that it may use, shared among the processes of one machine.

Torch, OpenMP, the BLAS libraries of numpy and numba take the number from here. Loader workers have one thread each, by
PyTorch, and are not counted: on a CPU the network takes nearly all of a step and they wait, so that cores kept for them
would stand idle. Arrays are unpacked by one thread (`store/arrays.py`), and this package's own loops run on one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""The first one wins where the user has set it; OpenBLAS, MKL and torch read it too."""


def available_cores(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: its affinity, cut by a container's quota and by SLURM.

    Args:
        environment: of the process.
        root: where `proc` and `sys` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [cores, *_quotas(root)]
    if (of_task := _whole(environment.get("SLURM_CPUS_PER_TASK", ""))) is not None:
        limits.append(of_task)
    return max(1, int(min(limits)))


def num_threads(num_processes: int = 1, environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Return threads per process: what `OMP_NUM_THREADS` says, or else an equal share of the cores, at least one.

    Args:
        num_processes: that compute on this machine at the same time. Tasks of SLURM that were given cores of their own
            (`--cpus-per-task`) share with none.
        environment: of the process.
        root: where `proc` and `sys` are.
    """
    if (asked := _whole(environment.get(VARIABLES[0], "").partition(",")[0])) is not None:
        return asked
    has_own = "SLURM_CPUS_PER_TASK" in environment and _tasks_here(environment) > 1
    return max(1, available_cores(environment, root) // (1 if has_own else num_processes))


def use_threads(num_processes: int = 1) -> str:
    """Let this process, and those that it starts, compute with `num_threads`; returns what is used, in words."""
    asked = os.environ.get(VARIABLES[0])
    threads = num_threads(num_processes)
    set_threads(threads)
    why = f"{VARIABLES[0]} is {asked}" if asked and asked == str(threads) else f"{available_cores()} cores"
    return f"threads: {threads}" + (f" in each of {num_processes} processes" if num_processes > 1 else "") + f" ({why})"


def set_threads(threads: int) -> None:
    """Set the number for what is imported and for what will be, in this process and in those that it starts."""
    os.environ[VARIABLES[0]] = str(threads)
    if "numba" not in sys.modules:  # which refuses another number once its threads have started
        os.environ.setdefault(VARIABLES[1], str(threads))
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() and int(text) > 0 else None


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks of SLURM's job step on this machine; of `2(x3),1` the first."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or "1"
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 1


def _quotas(root: Path) -> list[float]:
    """Cores' worth of time that the control groups of this process grant, version 2 and 1, whole ones at least."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    quotas = []
    for line in groups:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = top / path.lstrip("/")
        # Within a container the path may be that outside of it: then the top is the container's own group.
        for folder in [place, *place.parents]:
            quotas += _quota(folder)
            if folder == top:
                break
    return quotas


def _quota(folder: Path) -> list[float]:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return [int(quota) / int(period)] if int(quota) > 0 and int(period) > 0 else []
    except (OSError, ValueError):  # none, or `max`
        return []
