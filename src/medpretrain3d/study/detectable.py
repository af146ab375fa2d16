"""The difference that a study's seeds and test scans can show, before anything has run."""

from __future__ import annotations

import math

from medpretrain3d.statistics import MIN_SCANS, MIN_SEEDS, detectable_difference
from medpretrain3d.statistics.two_way import VarianceComponents
from medpretrain3d.study.inputs import is_prepared, open_store
from medpretrain3d.study.progress import Progress

ASSUMED = VarianceComponents(seed=0.015**2, scan=0.15**2, interaction=0.0)
"""Of the difference of two arms: how seeds spread and, as pseudo-values, scans; as in a study of real CT."""


def detectable(progress: Progress) -> str:
    """Return a line per data set: which true difference so many seeds and test scans find in four of five studies."""
    study = progress.study
    lines = []
    for data in study.data:
        counts = {len(cases) for cases in _test_cases(progress, data)}
        if not counts:
            lines.append(f"{data}: the detectable difference is unknown, its store is not there yet")
            continue
        num_scans, num_seeds, num_arms = min(counts), len(study.seeds), len(study.arms) - 1
        design = f"{data}: {num_seeds} seeds and {num_scans} test scans"
        found = detectable_difference(ASSUMED, num_seeds, num_scans, num_arms=max(num_arms, 1))
        if math.isinf(found):
            lines.append(f"{design} allow no verdict; wanted at least {MIN_SEEDS} seeds and {MIN_SCANS} scans")
        else:
            lines.append(
                f"{design} show a difference of {found:.3f} {study.declaration.metric} with 80 % power, if seeds "
                f"spread by {math.sqrt(ASSUMED.seed):g} "
                f"and scans by {math.sqrt(ASSUMED.scan):g} (assumed, not measured here)"
            )
    return "\n".join(lines)


def _test_cases(progress: Progress, data: str) -> list[tuple[str, ...]]:
    """Return the test cases of each fold of a data set that is studied."""
    stores = {
        (job.store, job.facts.get("data.fold"))
        for job in progress.jobs.of_kind("finetune")
        if job.setting["data"] == data and is_prepared(job.store)
    }
    splits = [(open_store(store).all_splits, fold) for store, fold in stores]
    return [tuple(one.named.get("test", ()) if fold is None else one.held_out_of(fold)) for one, fold in splits]
