"""How far a study is: the state of its jobs, the hours they took and will take, and why one runs again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medpretrain3d.lines import counted
from medpretrain3d.study.curves import read_curves
from medpretrain3d.study.design import Study
from medpretrain3d.study.jobs import Change, Job, Jobs, changes
from medpretrain3d.study.kept_results import lacks_weights
from medpretrain3d.study.records import UNFINISHED, Records, State
from medpretrain3d.study.seen_scans import some_names
from medpretrain3d.study.speeds import Speed, Speeds
from medpretrain3d.study.table import Table

MAX_CHANGES = 3
"""Changes of a job that are named; of more their number is said."""
NOT_DONE: tuple[State, ...] = ("failed", "interrupted", "running", "waiting", "unknown")
"""States of runs that a report is without, those first that will not come by themselves."""
MAX_ALIKE = 20
"""Jobs that change alike and are named each; of more their number is said, 600 of a study where the code changed."""


@dataclass(frozen=True)
class Progress:
    """Jobs of a study beside what is on the disk of them."""

    study: Study
    records: Records
    jobs: Jobs
    pilots: tuple[Path, ...] = ()
    """Folders of other runs, whose speeds and spreads count."""

    @cached_property
    def states(self) -> dict[Job, State]:
        """State of each job; a pretraining of which only results were kept waits where a run to come wants it."""
        found = {job: self.records.state(job) for job in self.jobs.jobs}
        for job in reversed(self.jobs.jobs):
            if found[job] in UNFINISHED:
                done = [one for one in job.needs if found[one] == "done"]
                found |= dict.fromkeys((one for one in done if lacks_weights(self.study, one)), "waiting")
        return found

    def of_state(self, *states: State) -> list[Job]:
        """Return jobs in one of some states."""
        return [job for job in self.jobs.jobs if self.states[job] in states]

    @cached_property
    def changed(self) -> dict[Job, list[Change]]:
        """What differs from the last version of each job that is to run and had one."""
        earlier = self.records.earlier()
        found = {}
        for job in self.of_state("waiting"):
            record = earlier.get(job.name)
            if record is not None and record["identity"] != job.identity:
                found[job] = changes(record["facts"], job.facts, record["code"], job.code)
                if not found[job]:
                    found[job] = [Change("what it begins from", "an earlier one", "another one")]
        return found

    @cached_property
    def speeds(self) -> Speeds:
        """How long a step of each job takes, as far as any run says."""
        found = Speeds((*self.pilots, self.study.root))
        for job in self.jobs.jobs:
            if job.is_known and job.kind != "prepare":
                found.add(job, self.records.run_folder(job))
        return found

    def speed_lines(self) -> list[str]:
        """Return from which runs outside of the study hours were taken."""
        used: dict[tuple[str, str], Speed] = {}
        for job in self.jobs.jobs:
            speed = self.speeds.of(job) if self.states[job] != "done" and job.kind != "prepare" else None
            if speed is not None and speed.source:
                words = [job.setting[key] for key in ("arm", "data", "detector") if key in job.setting]
                words = words[1:] if job.kind == "finetune" else words
                used[job.kind, ", ".join(words)] = speed
        return [
            f"hours of {kind} {name} are those of {counted(speed.num_runs, 'run')} like it, as {speed.source}"
            for (kind, name), speed in used.items()
        ]

    def _steps_so_far(self, job: Job) -> int:
        """Return the optimizer steps of a run that is on its way, as its curves have them."""
        curves = self.records.run_folder(job) / "metrics.csv"
        found = read_curves(curves) if curves.is_file() else {}
        return int(max((max(curve.steps) for curve in found.values()), default=-1)) + 1

    def hours(self, job: Job) -> float | None:
        """Return the hours that a job took, or will take at the speed of runs like it; None where there are none."""
        if self.states[job] == "done":
            known = self.records.metadata(job)
            return None if known is None or known.minutes is None else known.minutes / 60
        speed, steps = self.speeds.of(job), job.facts.get("trainer.max_steps")
        if speed is None or job.kind == "prepare" or not isinstance(steps, int) or steps < 1:
            return None
        return speed.minutes_per_step * steps / 60

    def summary(self) -> Table:
        """Return a row per kind of job."""
        table = Table(["kind", "jobs", "done", "failed", "to run", "hours taken", "hours to come"])
        for kind in ("prepare", "pretrain", "finetune"):
            jobs = self.jobs.of_kind(kind)
            states = [self.states[job] for job in jobs]
            done = [job for job in jobs if self.states[job] == "done"]
            left = [job for job in jobs if self.states[job] != "done"]
            numbers = [len(jobs), len(done), states.count("failed"), len(left)]
            table.rows.append([kind, *map(str, numbers), self._total(done), self._total(left)])
        return table

    def _total(self, jobs: Sequence[Job]) -> str:
        if not jobs:
            return "-"
        hours = [self.hours(job) for job in jobs]
        known = [one for one in hours if one is not None]
        if not known:
            return "unknown"
        return _hours(sum(known)) if len(known) == len(jobs) else f"{_hours(sum(known))} and unknown ones"

    def table(self) -> Table:
        """Return a row per job."""
        table = Table(["job", "state", "hours", "code"], num_text_columns=2)
        for job in self.jobs.jobs:
            hours = self.hours(job)
            state = f"{self.states[job]}{self._how_far(job)}"
            table.rows.append([job.name, state, "-" if hours is None else _hours(hours), self._code(job)])
        return table

    def _how_far(self, job: Job) -> str:
        if self.states[job] not in ("running", "interrupted") or job.kind == "prepare":
            return ""
        return f", step {self._steps_so_far(job)} of {job.facts.get('trainer.max_steps', '?')}"

    def _code(self, job: Job) -> str:
        return job.code if job.adopted is None else self._codes.get(job.adopted, job.code)

    @cached_property
    def _codes(self) -> dict[str, str]:
        return {record["identity"]: record["code"] for record in self.records.all()}

    def kept_lines(self) -> list[str]:
        """Return how many results of other code are taken, a line for each version."""
        kept = Counter(self._code(job) for job in self.jobs.jobs if job.adopted is not None)
        return [
            f"{counted(count, 'result')} of code {code} {'is' if count == 1 else 'are'} kept"
            for code, count in sorted(kept.items())
        ]

    def change_lines(self, kinds: Sequence[str]) -> list[str]:
        """Return a line for each job that runs again, with what changed; one for many that change alike."""
        alike: dict[str, list[Job]] = {}
        for job, found in self.changed.items():
            if job.kind in kinds:
                shown = "; ".join(map(str, found[:MAX_CHANGES]))
                more = f" and {len(found) - MAX_CHANGES} more" if len(found) > MAX_CHANGES else ""
                alike.setdefault(f"{shown}{more}", []).append(job)
        lines = []
        for change, jobs in alike.items():
            if len(jobs) > MAX_ALIKE:
                lines.append(f"{len(jobs)} jobs run again, {change}: {jobs[0].name}, to {jobs[-1].name}")
            else:
                lines += [f"{job.name}: runs again, {change}" for job in jobs]
        return lines

    def failure_lines(self) -> list[str]:
        """Return for each job that failed how it ended, and the last lines that it printed."""
        lines = []
        for job in self.of_state("failed"):
            lines.append(f"{job.name}: failed, {self.records.failure(job)['message']}")
            lines += [f"    {line}" for line in self.records.log_tail(job)]
            lines.append(f"    log: {self.records.path(job, 'log')}")
        return lines

    def missing_lines(self) -> list[str]:
        """Return which runs of fine-tuning a report of now is without, and why; nothing where it has all.

        A run that fails is seldom any run: with its seed goes what it would have shown.
        """
        jobs = self.jobs.of_kind("finetune")
        number = sum(self.states[job] != "done" for job in jobs)
        if not number:
            return []
        missing = {state: [job.name for job in jobs if self.states[job] == state] for state in NOT_DONE}
        parts = [
            f"{len(names)} {state} ({some_names(names, MAX_CHANGES)})" for state, names in missing.items() if names
        ]
        is_one = number == 1
        return [
            f"{number} of {counted(len(jobs), 'run')} of this study {'is' if is_one else 'are'} not in this report: "
            f"{', '.join(parts)}; what it says is of the others"
        ]

    def unseen_lines(self) -> list[str]:
        """Return how many results are taken although their data are not prepared here; nothing where none are."""
        stores = {job.store for job in self.of_state("done") if job.store in self.jobs.unknown}
        if not stores:
            return []
        number = sum(job.store in stores for job in self.of_state("done"))
        names = some_names(sorted(stores), MAX_CHANGES)
        return [
            f"data of {counted(number, 'result')} are not prepared here ({names}); that they are those of the study is "
            "taken from their records"
        ]

    def blocked(self) -> list[Job]:
        """Return jobs that cannot run because one that they need failed, or their data were not prepared."""
        failed = set(self.of_state("failed"))
        return [
            job
            for job in self.jobs.jobs
            if self.states[job] != "done" and (not job.is_known or any(one in failed for one in job.needs))
        ]


def _hours(hours: float) -> str:
    return f"{hours:.3f}" if hours < 1 else f"{hours:.1f}"
