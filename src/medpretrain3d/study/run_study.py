"""The four things that are done with a study: plan, run, status, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.interruption import Interrupted
from medpretrain3d.lines import counted, print_line
from medpretrain3d.study.declaration import declaration_note, declare
from medpretrain3d.study.design import ALL, KINDS, Study
from medpretrain3d.study.detectable import detectable
from medpretrain3d.study.expansion import expand
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.kept_results import clear_without_weights, keep_results, lacks_weights
from medpretrain3d.study.latest import link_latest
from medpretrain3d.study.other_programs import other_program_runs
from medpretrain3d.study.page import write_figures, write_report
from medpretrain3d.study.progress import Progress
from medpretrain3d.study.records import UNFINISHED, Records
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import Run, find_runs
from medpretrain3d.study.table_files import tables_folder, write_tables
from medpretrain3d.study.trials import trials_folder, try_steps
from medpretrain3d.study.workflow import Machine, check_engine, run_jobs

REPORT = "report.html"


def progress_of(
    study: Study, keeps_other_code: bool = False, pilots: Sequence[Path] = (), is_read_only: bool = False
) -> Progress:
    """Return the jobs of a study and what is on the disk of them.

    Args:
        study: the study.
        keeps_other_code: whether a result counts as one of a job that other code made.
        pilots: folders of other runs, whose speeds count where the study has none.
        is_read_only: whether nothing will be run: results on data that are not prepared here count by their records.

    Raises:
        UserError: a recipe is wrong, or data are missing that no job makes.
    """
    records = Records(study)
    results = records.of_results() if keeps_other_code or is_read_only else []
    found: dict[str, list[str]] = {}
    for record in results if keeps_other_code else ():
        found.setdefault(record["recipe"], []).append(record["identity"])
    jobs = expand(study, found, results if is_read_only else ())
    return Progress(study, records, jobs, (*pilots, trials_folder(study)))


def plan_study(
    study: Study, keeps_other_code: bool = False, pilots: Sequence[Path] = (), num_tried_steps: int | None = None
) -> int:
    """Print the jobs of a study, their hours, what changed, and the difference that it can show.

    Args:
        study: the study.
        keeps_other_code: see `progress_of`.
        pilots: folders of other runs, whose speeds and spreads count where the study has none.
        num_tried_steps: first steps to run where nothing says how long a step takes; None for none.

    Raises:
        UserError: as `progress_of`, too few steps, or there is no run below a folder of pilots.
    """
    progress = progress_of(study, keeps_other_code, pilots, is_read_only=True)
    if num_tried_steps is not None:
        print("\n".join(try_steps(progress, num_tried_steps)), flush=True)
        progress = progress_of(study, keeps_other_code, pilots, is_read_only=True)
    earlier = [*pilots, *([study.folder] if list(study.folder.glob("*/run.json")) else [])]
    own = study_runs(progress)
    known = _folders(own)
    runs = [*own, *(run for run in (find_runs(earlier) if earlier else ()) if run.folder.resolve() not in known)]
    tables = [str(progress.table()), str(progress.summary())]
    lines = [_head(study), *tables, *_lines(progress), detectable(progress, runs)]
    print("\n\n".join(lines))
    return 0


def study_status(study: Study, keeps_other_code: bool = False) -> int:
    """Print the state of each job, and how the failed ones ended."""
    progress = progress_of(study, keeps_other_code, is_read_only=True)
    failures = progress.failure_lines()
    lines = [*failures, *progress.unseen_lines()]
    print("\n\n".join([str(progress.table()), str(progress.summary()), *(["\n".join(lines)] if lines else [])]))
    return 0


def run_study(study: Study, machine: Machine, keeps_other_code: bool = False) -> int:
    """Run every job of a study that is not done, and make its report.

    Returns:
        0 once everything is done; 1 where jobs failed, or others could not begin for want of them.

    Raises:
        UserError: the document or a recipe is wrong, or the engine did not start.
        Interrupted: this process was told to end.
    """
    started = time.monotonic()
    check_engine(machine)
    declare(study)
    try:
        progress = run_missing(study, machine, keeps_other_code)
    except Interrupted:
        _keep_results(study, progress_of(study, keeps_other_code))
        raise
    _keep_results(study, progress)
    print(progress.summary())
    runs = [job for job in progress.of_state("done") if job.kind != "prepare"]
    if runs:
        link_latest(runs, progress.records)
        _write_report(study, progress)
    return _end(study, progress, (time.monotonic() - started) / 60)


def run_missing(study: Study, machine: Machine, keeps_other_code: bool = False) -> Progress:
    """Run every job of a study that is not done; return how far it is then.

    Raises:
        UserError: the document or a recipe is wrong, or the engine did not start.
        Interrupted: this process was told to end.
    """
    for kinds in (("prepare",), ("pretrain", "finetune")):  # data decide which jobs there are
        progress = progress_of(study, keeps_other_code)
        todo = [job for job in progress.of_state(*UNFINISHED) if job.kind in kinds]
        for line in (*progress.change_lines(kinds), *(progress.kept_lines() if "finetune" in kinds else ())):
            print_line(line)
        if todo:
            for job in todo:
                if lacks_weights(study, job):
                    print_line(f"{job.name}: runs again, its weights are wanted and were not kept")
                    clear_without_weights(study, job)
            reused = len([job for job in progress.of_state("done") if job.kind in kinds])
            to_run = ", ".join(kind for kind in kinds if any(job.kind == kind for job in todo))
            print_line(f"{study.name}: {counted(len(todo), 'job')} to run ({to_run}), {reused} reused")
            run_jobs(todo, Records(study), machine)
    return progress_of(study, keeps_other_code)


def report_study(study: Study, keeps_other_code: bool = False, figures: Path | None = None) -> int:
    """Make the report of what is done.

    Args:
        study: to be reported.
        keeps_other_code: see `run_study`.
        figures: folder that receives every plot as an SVG file.

    Raises:
        UserError: nothing is.
    """
    progress = progress_of(study, keeps_other_code, is_read_only=True)
    if not _write_report(study, progress, figures):
        raise UserError(f"{study.folder}: no run of this study is done; medpretrain3d study run first")
    return 0


def _keep_results(study: Study, progress: Progress) -> None:
    num_kept = keep_results(study, progress.of_state("done"))
    if num_kept:
        print_line(f"{study.results}: results of {counted(num_kept, 'job')} are kept there now")


def _write_report(study: Study, progress: Progress, figures: Path | None = None) -> bool:
    runs = study_runs(progress)
    if not runs:
        return False
    declared = declaration_note(study, runs)
    runs += other_program_runs(study, runs)  # scored just now, whenever they were made
    arm_options = {key for arm in study.arms for key in arm.finetune}
    report = make_report(runs, f"Study {study.name}", study.declaration, arm_options)
    report = replace(
        report,
        notes=[declared, *progress.missing_lines(), *progress.kept_lines(), *progress.unseen_lines(), *report.notes],
    )
    write_report(report, study.folder / REPORT)
    write_tables(report, tables_folder(study.folder / REPORT))
    drawn = write_figures(report, figures, study.name) if figures else []
    print(f"\n{report}\n\nopen {study.folder / REPORT}")
    if drawn:
        print(f"{figures}: {counted(len(drawn), 'plot')}")
    return True


def study_runs(progress: Progress) -> list[Run]:
    """Return the runs of the jobs that are done, those and no others."""
    done = [job for job in progress.of_state("done") if job.kind != "prepare"]
    jobs = {progress.records.run_folder(job).resolve(): job for job in done}
    study = progress.study
    found = []
    for run in find_runs(jobs) if jobs else []:
        design = dict(jobs[run.folder.resolve()].setting)
        steps = study.step_budget(design["arm"], float(design.get("steps", 1)))
        is_baseline = design["arm"] == study.baseline.name
        found.append(replace(run, design=design, step_budget=steps, is_baseline_arm=is_baseline))
    return found


def _end(study: Study, progress: Progress, minutes: float) -> int:
    left = [job for job in progress.jobs.jobs if progress.states[job] != "done"]
    if not left:
        done = "its one job" if len(progress.jobs.jobs) == 1 else f"all {len(progress.jobs.jobs)} jobs"
        print(f"{study.name}: {done} done ({minutes:.1f} min now)")
        return 0
    jobs = counted(len(progress.jobs.jobs), "job")
    failed, waiting = progress.of_state("failed"), _names(progress.blocked())
    if not failed:  # the engine was told to stop before them, as by --snakemake="--until prepare"
        print(f"{study.name}: {len(left)} of {jobs} not run, none failed; call again for the rest")
        return 1
    print("\n".join(progress.failure_lines()))
    behind = f"; not begun for want of them: {waiting}" if waiting else ""
    print(f"{study.name}: {len(failed)} of {jobs} failed{behind}; mend the cause and call again")
    return 1


def _folders(runs: list[Run]) -> set[Path]:
    """Return the folders of runs, as one name each: that of a job's run is absolute, and what is found below is not."""
    return {run.folder.resolve() for run in runs}


def _names(jobs: list[Job]) -> str:
    shown = ", ".join(job.name for job in jobs[:3])
    return f"{shown} and {len(jobs) - 3} more" if len(jobs) > 3 else shown


def _head(study: Study) -> str:
    counts: dict[str, Sequence[object]] = {
        "arm": study.arms,
        "data set": study.data,
        "detector": study.detectors,
        "label budget": study.labels,
        **({"step budget": study.steps} if len(study.steps) > 1 else {}),
        "seed": study.seeds,
    }
    design = " x ".join(counted(len(values), what) for what, values in counts.items())
    folds = "all folds" if study.folds == ALL else "the splits that the recipes name"
    folds = counted(len(study.folds), "fold") if isinstance(study.folds, tuple) else folds
    own = study.declaration
    none = "no delta declared" if own.delta is None else f"a difference below {own.delta:g} counts as none"
    lines = [
        f"{study.name}: {design}, {folds}; {study.folder}",
        f"baseline {study.baseline.name}; primary: {own.metric} with labels {own.labels}; {none}",
    ]
    if own.hypotheses:
        lines.append(f"hypotheses: {', '.join(map(str, own.hypotheses))}")
    if any(arm.pretrain for arm in study.arms):
        lines.append(
            f"{study.num_encoders} encoders per pretrained arm"
            if study.num_encoders > 1
            else "one encoder per pretrained arm: what comes out holds for these encoders (pretrain_seeds)"
        )
    return "\n".join(lines)


def _lines(progress: Progress) -> list[str]:
    lines = [*progress.change_lines(KINDS), *progress.kept_lines(), *progress.speed_lines(), *progress.unseen_lines()]
    if progress.jobs.unknown:
        lines.append(f"not prepared yet, so jobs on them are not final: {', '.join(progress.jobs.unknown)}")
    return ["\n".join(lines)] if lines else []
