"""Whether `run.restart` is still to be done: once for a job, however often SLURM queues it again with its words."""

from __future__ import annotations

import hashlib
import os

from medpretrain3d.engine.run import RunConfig, RunFile
from medpretrain3d.errors import UserError


def sitting_of_job() -> str | None:
    """Return which job of SLURM this is and how often it was queued again, `1f0c52ab93d4/2`; None outside of one.

    The job is a hash of its number, since run metadata go to trackers, which are told nothing of machines.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    name = f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{job}"
    return f"{hashlib.sha256(name.encode()).hexdigest()[:12]}/{int(count) if count.isdecimal() else 0}"


def is_thrown_away(run: RunConfig) -> bool:
    """Return whether an earlier run in the folder of a run is thrown away: `run.restart`, unless it was done already.

    It was, where an earlier sitting of this job began the run that is there. The answer is the same before and after
    the first process has thrown it away, so that all processes may ask when they like.
    """
    sitting = sitting_of_job()
    if not run.restart or sitting is None:
        return run.restart
    try:
        begun = RunFile(run.folder).read().begun_in or ""
    except UserError:  # what is not of this program is refused where the folder is claimed
        return True
    (job, _, count), (own_job, _, own_count) = begun.partition("/"), sitting.partition("/")
    return not (job == own_job and count.isdecimal() and int(count) < int(own_count))
