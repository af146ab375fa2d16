"""The difference that a study can show with its seeds and test scans, by spreads that were measured or assumed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medpretrain3d.lines import counted_scans, counted_seeds
from medpretrain3d.statistics import MIN_PATIENTS, MIN_SEEDS, detectable_difference
from medpretrain3d.study.design import Study
from medpretrain3d.study.inputs import is_prepared, open_store
from medpretrain3d.study.progress import Progress
from medpretrain3d.study.run import Run
from medpretrain3d.study.spreads import spread_of


def detectable(progress: Progress, runs: Sequence[Run]) -> str:
    """Return a line per data set: which true difference so many seeds and test scans find in four of five studies.

    Args:
        progress: of the study.
        runs: those of the study and pilots, which the spreads are taken from.
    """
    study = progress.study
    own = study.declaration
    lines = []
    for data in study.data:
        counts = {(len(set(of_case.values())), len(of_case)) for of_case in _test_sets(progress, data)}
        if not counts:
            lines.append(f"{data}: the detectable difference is unknown, its store is not there yet")
            continue
        (num_patients, num_scans), num_draws = min(counts), _num_draws(study, data)
        num_asked = _num_asked(study, data)
        seeds = counted_seeds(len(study.seeds), num_draws)
        design = f"{data}: {seeds} and {counted_scans(num_scans, num_patients, 'test scan')}"
        spread = spread_of(runs, data, own)
        found = detectable_difference(spread.components, num_draws, num_patients, num_arms=num_asked)
        if math.isinf(found):
            units = "scans" if num_patients == num_scans else "patients"
            lines.append(f"{design} allow no verdict; wanted at least {MIN_SEEDS} seeds and {MIN_PATIENTS} {units}")
            continue
        lines.append(
            f"{design} show a difference of {found:.3f} {own.metric} with 80 % power among {num_asked} that are asked "
            f"at once; {spread}"
        )
    return "\n".join(lines)


def _num_draws(study: Study, data: str) -> int:
    """Return how many draws of a method its seeds are: encoders, where an arm has several and fewer than seeds."""
    has_shared = any(data in arm.pretrain for arm in study.arms) and study.num_encoders > 1
    return study.num_encoders if has_shared else len(study.seeds)


def _num_asked(study: Study, data: str) -> int:
    """Return how many comparisons the report corrects for at once, at least one.

    Links of hypotheses on a data set are a family with each detector, what several ask for once; so are all arms on all
    data sets with all detectors, at the budget of the verdicts. The larger of the two counts.
    """
    links = [study.declaration.num_asked(data, detector.name) for detector in study.detectors]
    return max(*links, study.declaration.num_verdicts, 1)


def _test_sets(progress: Progress, data: str) -> list[dict[str, tuple[str, bool]]]:
    """Return whose the test cases are of each detector on a data set, its folds pooled; of stores that are there."""
    by_store: dict[str, dict[str, tuple[str, bool]]] = {}
    for job in progress.jobs.of_kind("finetune"):
        if job.setting["data"] == data and is_prepared(job.store):
            store, fold = open_store(job.store), job.facts.get("data.fold")
            splits = store.all_splits
            cases = splits.fold(fold).get("test", ())
            if fold is not None and job.facts.get("data.test_on") == "held_out":
                cases = splits.held_out_of(fold)
            patients = {case: store.entries[case]["patient"] for case in cases}
            by_store.setdefault(job.store, {}).update(
                {
                    case: (case if patient is None else str(patient), patient is None)
                    for case, patient in patients.items()
                }
            )
    return list(by_store.values())
