"""Notes of a report: what its runs lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.evaluation.named_metrics import AP_CENTER, NamedMetric
from medpretrain3d.lines import counted_scans
from medpretrain3d.statistics import MIN_PATIENTS
from medpretrain3d.study.conditions import Condition, Place
from medpretrain3d.study.run import Run
from medpretrain3d.study.seen_scans import some_names
from medpretrain3d.study.table import is_finite


def missing_notes(pretraining: Sequence[Run], finetuning: Sequence[Run]) -> list[str]:
    """Return what is not there: runs of a stage, ends of runs, tests, pictures, curves."""
    notes = []
    if not pretraining:
        notes.append("No pretraining run in these folders: its curves and restorations are not shown.")
    if not finetuning:
        notes.append("No fine-tuning run in these folders: there is nothing to compare yet.")
    lacking: dict[str, list[str]] = {}
    for run in (*pretraining, *finetuning):
        if not run.is_finished:
            lacking.setdefault("is not finished; shown as far as it got.", []).append(run.name)
        elif run in finetuning and not run.is_tested:
            lacking.setdefault(f"was not tested (no {MAP_KEY} in test/metrics.json).", []).append(run.name)
        if run.is_tested and not run.has_pictures:
            words = "has no pictures of test cases (test/slices and test/pictures are missing or empty)."
            lacking.setdefault(words, []).append(run.name)
        if not run.has_curves:
            lacking.setdefault("has no curves (metrics.csv is missing or empty).", []).append(run.name)
    return [*notes, *(f"{some_names(names)}: {words}" for words, names in lacking.items())]


def unlike_scan_notes(places: Mapping[Place, Sequence[Condition]]) -> list[str]:
    """Return where arms that stand side by side were tested on different scans, such as by folds not run yet."""
    notes = []
    for place, members in places.items():
        scans = {one: frozenset(case for run in one.runs for case in run.tested_cases) for one in members}
        if len(set(scans.values())) > 1:
            counts = ", ".join(f"{one.arm} on {len(found)}" for one, found in scans.items())
            notes.append(
                f"{place}: arms were tested on different scans ({counts}), so their own numbers are not of the same; "
                "differences and answers are of the scans that both have."
            )
    return notes


def trivial_notes(places: Mapping[Place, Sequence[Condition]], metric: NamedMetric) -> list[str]:
    """Return where arms find no more than a trivial baseline does, which looks at no image: the best of these.

    Of a baseline it is the mean over the runs there, each of which gave it its own training boxes.
    """
    notes = []
    for place, members in places.items():
        reached: dict[str, list[float]] = {}
        for run in (run for one in members for run in one.runs):
            for name in run.baseline_names:
                value = run.baseline_estimate(name, metric.key or metric.name).value
                if value is not None and is_finite(value):
                    reached.setdefault(name, []).append(value)
        best = max(reached, key=lambda name: fmean(reached[name]), default=None)
        if best is None:
            continue
        highest = fmean(reached[best])
        below = [
            f"{one.arm} {one.estimate.value:.3f}"
            for one in members
            if one.estimate.value is not None and one.estimate.value <= highest
        ]
        if below:
            notes.append(
                f"{place}: the {best}, which looks at no image, has {metric} {highest:.3f}, and not more have "
                f"{', '.join(below)}: how these differ says little of what detectors learned."
            )
    return notes


def patient_notes(runs: Sequence[Run]) -> list[str]:
    """Return which data sets were tested on several scans of a patient: intervals are then over patients."""
    counts: dict[str, set[tuple[int, int]]] = {}
    for run in runs:
        if run.is_tested and run.num_patients < run.metrics["num_cases"]:
            counts.setdefault(run.data_name, set()).add((run.metrics["num_cases"], run.num_patients))
    return [
        f"{name}: {' and '.join(counted_scans(*one, 'test case') for one in sorted(found))}; intervals, p and the "
        f"{MIN_PATIENTS} that a verdict needs are of patients."
        for name, found in counts.items()
    ]


def undefined_metric_notes(runs: Sequence[Run], metric: NamedMetric) -> list[str]:
    """Return which runs have no number of a metric of overlap, since their objects are points."""
    by_center = [run.name for run in runs if run.is_by_center] if metric.ious else []
    if not by_center:
        return []
    words = f"has points to find, where {metric}, a metric of overlap, is undefined; name {AP_CENTER} as the metric."
    return [f"{some_names(by_center)}: {words}"]


def earlier_version_notes(runs: Sequence[Run]) -> list[str]:
    """Return what the numbers of earlier versions lack."""
    tested = [run for run in runs if run.is_tested and not run.is_by_center]
    anew = "`medpretrain3d evaluate` on test/predictions.json and test/targets.json makes new ones."
    lacking = {
        "interval_method": "the intervals in test/metrics.json are of an earlier version and cover less than they say; "
        f"they are not shown. {anew}",
        "error_analysis": f"test/metrics.json is of an earlier version, without kinds of errors and precision. {anew}",
    }
    notes = []
    for key, words in lacking.items():
        old = [run for run in tested if key not in run.metrics]
        tested = [run for run in tested if run not in old]  # what is older is said once
        if old:
            notes.append(f"{some_names([run.name for run in old])}: {words}")
    return notes
