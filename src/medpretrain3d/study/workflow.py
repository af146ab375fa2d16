"""Jobs handed to Snakemake: which waits for which, how many at once, on this machine or a cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import GRACE_S, NOTICE, end_with_parent, signals
from medpretrain3d.study.design import Resources
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import write_failed
from medpretrain3d.study.records import Records
from medpretrain3d.study.visible_devices import visible_devices

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG = "snakemake.log"
TABLE = "snakemake.json"
"""Of the jobs, in the study's folder: the engine is in it and reads it by this name, whatever the folder's path is."""
LOCAL = "local"
CLUSTER_JOBS = 100
"""Jobs that wait in the queue of a cluster at a time."""
CLUSTER_RETRIES = 3
"""How often a job of a cluster is submitted again that was killed, reached its time limit or lost its node; it goes on
from its last checkpoint."""

QUEUED_AGAIN = {"SBATCH_REQUEUE": "1", "SBATCH_OPEN_MODE": "append", "SBATCH_SIGNAL": f"{NOTICE.name[3:]}@90"}
"""What `sbatch` reads of jobs: SLURM queues one that is pre-empted or lost its node again, and 90 seconds before its
time is up a run keeps its state and has itself queued again. Options of sbatch count more (`slurm_extra`,
`--slurm-no-requeue`)."""


@dataclass(frozen=True)
class Machine:
    """Where jobs run, and how many at once."""

    executor: str = LOCAL
    """`local`, or the name of an executor plugin of Snakemake such as `slurm`."""
    cores: int | None = None
    """Of this machine that are used; all by default. Of a cluster: how many jobs at a time."""
    gpus: int | None = None
    """Of this machine that are used; all by default."""
    extra: tuple[str, ...] = ()
    """Further options of Snakemake."""

    @property
    def is_local(self) -> bool:
        """Whether jobs run on this machine."""
        return self.executor == LOCAL

    @property
    def devices(self) -> list[str]:
        """GPUs that jobs may have, as CUDA names them."""
        return visible_devices()[: self.gpus]


def run_jobs(jobs: Sequence[Job], records: Records, machine: Machine) -> None:
    """Run jobs that are not done, as many at a time as the machine bears; what depends on a failed one is not begun.

    They begin in their order, so that an interrupted study has whole comparisons; a pretraining begins with the first
    job that needs it. How each ended is on the disk (`Records.state`).

    Raises:
        UserError: Snakemake or the plugin is not installed, or did not start the jobs.
        Interrupted: this process was told to end; all programs have ended.
    """
    check_engine(machine)
    for job in jobs:
        records.write(job)
    folder = records.study.folder
    table = folder / TABLE
    todo = {job.identity for job in jobs}
    priorities = _priorities(jobs)
    entries = {
        f"{job.kind}-{job.identity}": _entry(job, todo, records, machine, priorities[job.identity]) for job in jobs
    }
    devices = ",".join(machine.devices) if machine.is_local else ""
    write_text(table, json_text({"folder": os.getcwd(), "devices": devices, "jobs": entries}, indent=1))
    code, said = _run_snakemake(_words(folder, machine), folder / LOG, machine)
    unfinished = [job for job in jobs if not records.is_done(job)]
    for job in unfinished:  # of those that were lost no process was left to say it
        if records.is_begun(job) and not records.path(job, "failed").is_file():
            lost = f"its process or machine was lost before it could say why; see {folder / LOG}"
            write_failed(records.path(job, "failed"), 1, lost)
    if code and unfinished and not any(records.path(job, "failed").is_file() for job in unfinished):
        raise UserError(f"snakemake ended with exit code {code} and began no job that failed: {said}")


def check_engine(machine: Machine) -> None:
    """Refuse to begin without the engine.

    Raises:
        UserError: says what to install.
    """
    if not _is_installed("snakemake"):
        raise UserError("studies run on Snakemake, which is not installed; pip install 'medpretrain3d[study]'")
    plugin = f"snakemake-executor-plugin-{machine.executor}"
    if not machine.is_local and not _is_installed(plugin):
        raise UserError(f"--executor {machine.executor}: its plugin is not installed; pip install {plugin}")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _priorities(jobs: Sequence[Job]) -> dict[str, int]:
    """Return a number for each job, the larger the sooner: what is needed comes with the first that needs it."""
    found: dict[str, int] = {}
    finetuning_first = sorted(jobs, key=lambda job: job.kind != "finetune")
    for priority, job in enumerate(reversed(finetuning_first)):
        waiting = [job]
        while waiting:
            one = waiting.pop()
            found[one.identity] = max(priority, found.get(one.identity, 0))
            waiting += one.needs
    return found


def _entry(job: Job, todo: set[str], records: Records, machine: Machine, priority: int) -> dict[str, Any]:
    asked = records.study.resources.get(job.kind, Resources())
    return {
        "name": job.name,
        "needs": [f"{one.kind}-{one.identity}" for one in job.needs if one.identity in todo],
        "priority": priority,
        "cores": asked.cores or 2,  # a process that trains and one that reads
        "gpus": _num_gpus(job, asked, machine),
        "mem_mb": round(1000 * (asked.memory_gb or 8)),
        "minutes": round(60 * (asked.hours or 24)),
    }


def _num_gpus(job: Job, asked: Resources, machine: Machine) -> int:
    """Return how many GPUs a job gets: what the document asks for, else one for each device of its recipe."""
    if job.kind == "prepare":
        return 0
    available = len(machine.devices) if machine.is_local else sys.maxsize
    devices = job.facts.get("trainer.devices")
    wanted = devices if isinstance(devices, int) and devices > 0 else 1
    wanted = 0 if job.facts.get("trainer.accelerator") == "cpu" else wanted
    return min(asked.gpus if asked.gpus is not None else wanted, available)


def _words(folder: Path, machine: Machine) -> list[str]:
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(folder.absolute())]
    words += ["--keep-going", "--rerun-incomplete", "--nolock", "--scheduler", "greedy", "--rerun-triggers", "mtime"]
    if machine.is_local:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cores = machine.cores or allowed
        words += ["--cores", str(cores), "--resources", f"gpu={len(machine.devices)}"]
    else:
        words += ["--executor", machine.executor, "--jobs", str(machine.cores or CLUSTER_JOBS)]
        words += ["--retries", str(CLUSTER_RETRIES)]
    return [*words, *machine.extra]


def _run_snakemake(words: list[str], log: Path, machine: Machine) -> tuple[int, str]:
    """Run the engine in a group of processes of its own, which all hear of the signals that this one gets.

    Returns:
        Exit code, and the last line of what it said.

    Raises:
        Interrupted: this process was told to end.
    """
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(words)}\n".encode())
        stream.flush()
        engine = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stderr=stream if machine.is_local else None,  # of a cluster it says what was submitted
            env=None if machine.is_local else {**QUEUED_AGAIN, **os.environ},
            start_new_session=True,
            preexec_fn=end_with_parent,  # jobs are told to end by its death, and keep their state
        )

        def pass_on(signum: int) -> None:
            # What engine and programs understand, whatever came; jobs of a cluster are cancelled after SIGINT only.
            os.killpg(engine.pid, signal.SIGTERM if machine.is_local else signal.SIGINT)

        def kill() -> None:
            os.killpg(engine.pid, signal.SIGKILL)

        before = signals.mode, signals.grace_s
        signals.mode, signals.grace_s = "note", GRACE_S + 10
        signals.listeners.append(pass_on)
        signals.before_exit.append(kill)
        try:
            if signals.received is not None:
                pass_on(signals.received)
            code = engine.wait()
        finally:
            signals.listeners.remove(pass_on)
            signals.before_exit.remove(kill)
            signals.mode, signals.grace_s = before
    signals.check()
    if code < 0:
        raise UserError(f"snakemake was ended by {signal.Signals(-code).name}; call again: finished jobs are reused")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return code, " ".join(lines[-3:])[:600]
