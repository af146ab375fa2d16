"""Links to the runs of a study as its document is now, under names that do not change with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.study.jobs import NUMBERED, Job
from medpretrain3d.study.records import Records

LATEST = "latest"


def link_latest(jobs: Sequence[Job], records: Records) -> None:
    """Make `latest/<name>` lead to the run of each job; links of earlier documents go.

    Raises:
        UserError: the disk refuses.
    """
    folder = records.study.folder / LATEST
    names = short_names(jobs)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.is_symlink():
                old.unlink()
        for job, name in names.items():
            (folder / name).symlink_to(os.path.relpath(records.run_folder(job), folder), target_is_directory=True)


def short_names(jobs: Sequence[Job]) -> dict[Job, str]:
    """Return names of runs: the arm, and what distinguishes jobs of one kind beside it.

    Where that is one name for several (arm `a` with detector `b-c`, `a-b` with `c`), each has its identity behind it.
    """
    named = {}
    for job in jobs:
        alike = [other for other in jobs if other.kind == job.kind]
        telling = [key for key in job.setting if key == "arm" or len({one.setting.get(key) for one in alike}) > 1]
        words = [f"{key}{job.setting[key]}" if key in NUMBERED else job.setting[key] for key in telling]
        named[job] = "-".join([*(["encoder"] if job.kind == "pretrain" else []), *words])
    counts = Counter(named.values())
    return {job: name if counts[name] == 1 else f"{name}-{job.identity[:8]}" for job, name in named.items()}
