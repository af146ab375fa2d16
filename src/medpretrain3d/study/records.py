"""Records of a study's jobs on the disk: what each was made from, how it ended, and what of it is there.

STUDY/jobs/<kind>-<identity>.json     the job: facts, code, commands, folder
STUDY/jobs/<kind>-<identity>.log      what its programs printed, of every sitting
STUDY/jobs/<kind>-<identity>.done     it ended well
STUDY/jobs/<kind>-<identity>.failed   it did not
STUDY/recipes/<hash>.yaml             recipes as they were when the job was made
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from medpretrain3d.atomic import write_text
from medpretrain3d.atomic.lock import is_locked
from medpretrain3d.command_line.composition import nested
from medpretrain3d.command_line.recipes import recipe_text
from medpretrain3d.documents import read_json
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata, read_run_metadata
from medpretrain3d.study.design import Study
from medpretrain3d.study.inputs import short_hash
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import ADVICE, RECORD, RUN, Failure, Record, is_complete
from medpretrain3d.study.result_date import result_date

State = Literal["done", "failed", "running", "interrupted", "waiting", "unknown"]
"""`unknown`: of a job whose data are not prepared yet; `interrupted`: begun, and no living process works at it."""
UNFINISHED: tuple[State, ...] = ("waiting", "running", "interrupted", "failed")
"""States of jobs that are to run."""


@dataclass(frozen=True)
class Records:
    """Records of one study.

    Args:
        study: the study; its folder may not be there yet.
    """

    study: Study

    @property
    def folder(self) -> Path:
        """Of the records."""
        return self.study.folder / "jobs"

    def path(self, job: Job, ending: str = "json") -> Path:
        """Return a file of a job."""
        return self.folder / f"{job.kind}-{job.identity}.{ending}"

    def run_folder(self, job: Job) -> Path:
        """Return where a job writes: its run, or its store. A run that has been begun keeps its folder."""
        if job.product is not None:
            return job.product.parent
        with suppress(UserError, OSError):
            return Path(RECORD.read(self.path(job))["folder"])
        return self.study.folder / job.slug

    def state(self, job: Job) -> State:
        """Return how far a job is, by what is on the disk."""
        if not job.is_known:
            return "unknown"
        if self.is_done(job):
            return "done"
        if is_locked(self.path(job, "done")):
            return "running"
        if self.path(job, "failed").is_file():
            return "failed"
        if job.product is None:
            return "interrupted" if self.is_begun(job) else "waiting"
        is_begun = self.path(job, "log").is_file() and not self.path(job, "done").is_file()
        return "interrupted" if is_begun else "waiting"

    def is_begun(self, job: Job) -> bool:
        """Return whether a job has a run on the disk, whatever became of it."""
        return job.product is None and (self.run_folder(job) / RUN).is_file()

    def is_done(self, job: Job) -> bool:
        """Return whether a job ended well and its result is still there."""
        return self.path(job, "done").is_file() and is_complete(self.run_folder(job), job.kind, self.path(job, "done"))

    def is_whole(self, stem: str) -> bool:
        """Return the same of the job whose files are called so; one without a readable record has no result."""
        done = self.folder / f"{stem}.done"
        with suppress(UserError):
            if done.is_file():
                record = RECORD.read(done.with_suffix(".json"))
                return is_complete(Path(record["folder"]), record["kind"], done)
        return False

    def failure(self, job: Job) -> Failure:
        """Return how a job failed.

        Raises:
            UserError: the file is damaged.
        """
        return read_json(self.path(job, "failed"), Failure, ADVICE)

    def log_tail(self, job: Job, num_lines: int = 5) -> list[str]:
        """Return the last lines that a job printed."""
        with suppress(OSError):
            with self.path(job, "log").open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - 8192))
                text = log.read().decode(errors="replace")
            return [line for line in text.splitlines() if line.strip()][-num_lines:]
        return []

    def metadata(self, job: Job) -> RunMetadata | None:
        """Return the metadata of the run of a job, None before it has begun."""
        with suppress(UserError, OSError):
            return read_run_metadata(self.run_folder(job) / RUN)
        return None

    def all(self) -> list[Record]:
        """Return every readable record, the oldest first: by its result, where there is one.

        One whose result has no date comes before the others, so that it is not taken for newer than it is.
        """
        found = []
        for path in self.folder.glob("*.json") if self.folder.is_dir() else ():
            with suppress(UserError):
                found.append((path, RECORD.read(path)))
        return [record for _, record in sorted(found, key=lambda one: (self._date(*one), one[0].name))]

    def _date(self, path: Path, record: Record) -> datetime:
        done = path.with_suffix(".done")
        if done.is_file():
            return result_date(Path(record["folder"]), record["kind"], done) or datetime.min.replace(tzinfo=UTC)
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)

    def result_dates(self) -> dict[Path, datetime | None]:
        """Return when each job that ended well had its result, by the folder of its run; None where nothing says it."""
        found = {}
        for record in self.all():
            done = self.folder / f"{record['kind']}-{record['identity']}.done"
            if done.is_file():
                folder = Path(record["folder"])
                found[folder.resolve()] = result_date(folder, record["kind"], done)
        return found

    def earlier(self) -> dict[str, Record]:
        """Return the newest record of each job's name that was begun; a job that never ran has nothing to run again."""
        return {record["name"]: record for record in self.all() if self._was_begun(record)}

    def _was_begun(self, record: Record) -> bool:
        stem = f"{record['kind']}-{record['identity']}"
        return any((self.folder / f"{stem}.{ending}").is_file() for ending in ("log", "done", "failed"))

    def of_results(self) -> list[Record]:
        """Return the records of jobs whose results are there, the oldest first."""
        return [record for record in self.all() if self.is_whole(f"{record['kind']}-{record['identity']}")]

    def write(self, job: Job) -> None:
        """Write the record of a job that is to run, and its recipes."""
        folder = self.run_folder(job)
        commands = [list(words) for words in job.commands]
        if job.layers:
            commands = [[job.kind, *self._recipes(job, folder)]]
        self.path(job, "failed").unlink(missing_ok=True)
        self.path(job, "done").unlink(missing_ok=True)
        record = Record(
            name=job.name,
            kind=job.kind,
            setting=dict(job.setting),
            facts=dict(job.facts),
            code=job.code,
            recipe=job.recipe,
            identity=job.identity,
            needs=[one.identity for one in job.needs],
            commands=commands,
            folder=str(folder),
        )
        RECORD.write(self.path(job), record, indent=1)

    def _recipes(self, job: Job, folder: Path) -> Iterator[str]:
        """Write the layers of a job's recipe; return the options that name them."""
        run = {"run.root": str(self.study.root), "run.group": self.study.name, "run.name": folder.name}
        run["run.arm"] = job.setting["arm"]
        begins = {"model.init_from": str(self.run_folder(job.needs[0]) / "encoder")} if job.needs else {}
        for layer in (*job.layers, nested({**run, **begins})):
            text = recipe_text(dict(layer))
            path = self.study.folder / "recipes" / f"{short_hash(text)}.yaml"
            if not path.is_file():
                write_text(path, text)
            yield from ("--config", str(path))
