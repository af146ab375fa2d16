"""Tables of the conditions of a report: what arms reach beside each other, by class, size, case; and costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from medpretrain3d.evaluation.error_analysis import ERRORS
from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.study.conditions import WHOLE, Condition, Place, base_arm, detector_of, range_of
from medpretrain3d.study.differences import Difference
from medpretrain3d.study.figures import size_recalls
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Cell, Estimate, Table

MIXED = "mixed"
"""Mark of a mean over folds whose verdicts differ."""


def by_place(conditions: Sequence[Condition]) -> dict[Place, list[Condition]]:
    """Return the arms of each place."""
    groups: dict[Place, list[Condition]] = {}
    for one in conditions:
        groups.setdefault(one.place, []).append(one)
    return groups


def matrix_table(conditions: Sequence[Condition], differences: Sequence[Difference], metric: NamedMetric) -> Table:
    """Return the primary metric of every arm, a row per data set, detector and budget, marked by its verdict.

    Folds that share their test scans have a verdict each: the mark of their mean is the one that all have, or mixed.
    """
    arms = list(dict.fromkeys((one.arm, one.color) for one in sorted(conditions, key=lambda one: one.color)))
    has_detectors = any(one.place.detector for one in conditions)
    has_steps = _has_steps(conditions)
    before = ["data set", *(["detector"] if has_detectors else []), "labels"]
    before += [*(["steps"] if has_steps else []), "seeds"]
    columns = {arm: len(before) + place for place, (arm, _) in enumerate(arms)}
    verdicts = {run: str(one.judged.verdict) for one in differences for run in one.runs}
    marks: dict[tuple[int, int], str] = {}
    table = Table(
        [*before, *(arm for arm, _ in arms)],
        num_text_columns=len(before) - 1,
        column_arms={columns[arm]: color for arm, color in arms},
        marks=marks,
    )
    for place, members in by_place(conditions).items():
        found = {one.arm: one for one in members}
        seeds = sorted({len(one.seeds) for one in members})
        row: list[Cell] = [place.data, *([place.detector] if has_detectors else []), place.labels]
        row += [place.steps] if has_steps else []
        row += ["-".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))]
        for arm, _ in arms:
            row.append(found[arm].estimate if arm in found else "")
            own = {verdicts[run] for run in found[arm].runs if run in verdicts} if arm in found else set()
            if own:
                marks[len(table.rows), columns[arm]] = own.pop() if len(own) == 1 else MIXED
        table.add(row, place.facts)
    return table


def class_table(conditions: Sequence[Condition]) -> Table:
    """Return AP at IoU 0.5 of each class, a row per condition; means over runs, with the lowest and the highest."""
    classes = list(dict.fromkeys(name for one in conditions for run in one.runs for name in run.class_estimates()))
    table = Table([*_heading(conditions), *classes], num_text_columns=len(_heading(conditions)))
    for one in conditions:
        estimates = [run.class_estimates() for run in one.runs]
        cells = [_together([each[name] for each in estimates if name in each]) for name in classes]
        table.add([*_place_of(one, conditions), *cells], one.facts)
    return table


def size_table(conditions: Sequence[Condition]) -> Table:
    """Return recall at IoU 0.1 in each stratum of the diameter, a row per condition; means over runs and range."""
    found = {one: size_recalls(one.runs) for one in conditions}
    strata = list(dict.fromkeys(name for strata in found.values() for name in strata))
    strata.sort(key=lambda name: float(name.partition("-")[0].partition(" ")[0]))
    table = Table([*_heading(conditions), *strata], num_text_columns=len(_heading(conditions)))
    for one, recalls in found.items():
        table.add([*_place_of(one, conditions), *(range_of(recalls.get(name, [])) for name in strata)], one.facts)
    return table


def error_table(conditions: Sequence[Condition]) -> Table:
    """Return what AP gains without each kind of error, and how often it occurs per scan; means over runs."""
    kinds = (ERRORS[-1], *ERRORS[:-1])
    table = Table([*_heading(conditions), *kinds], num_text_columns=len(_heading(conditions)))
    for one in conditions:
        gains = [range_of([run.gain_without(kind) for run in one.runs]) for kind in kinds]
        if any(gain.is_known for gain in gains):
            table.add([*_place_of(one, conditions), *gains], one.facts)
    return table


def case_table(conditions: Sequence[Condition]) -> Table:
    """Return the score of each test case in one place, means over the seeds of each arm, the most different first."""
    scores: dict[str, dict[str, Estimate]] = {}
    for one in conditions:
        by_case: dict[str, list[float]] = {}
        for run in one.runs:
            for case, score in run.case_scores.items():
                by_case.setdefault(case, []).append(score)
        for case, values in by_case.items():
            scores.setdefault(case, {})[one.arm] = range_of(values)
    objects = {
        str(row["case"]): str(row.get("num_targets", "-"))
        for one in conditions
        for run in one.runs
        for row in run.metrics.get("per_case", [])
    }
    arms = [one.arm for one in conditions]
    table = Table(
        ["case", "objects", *arms, "spread"],
        num_text_columns=1,
        column_arms={2 + place: one.color for place, one in enumerate(conditions)},
    )

    def spread(of_arms: Mapping[str, Estimate]) -> float:
        values = [float(one.value) for one in of_arms.values() if one.value is not None]
        return max(values) - min(values)

    for case, of_arms in sorted(scores.items(), key=lambda one: (-spread(one[1]), one[0])):
        cells = [Estimate(of_arms[arm].value) if arm in of_arms else "" for arm in arms]
        table.rows.append([case, objects.get(case, "-"), *cells, Estimate(spread(of_arms))])
    return table


def cost_table(runs: Sequence[Run], arms: Mapping[Run, str]) -> Table:
    """Return what the runs of each stage cost, a row per arm, data set and detector; pretraining by method."""
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        if run.metadata.stage == "pretrain":
            groups.setdefault(("pretraining", run.method, run.metadata.corpus or "-", "-"), []).append(run)
        elif run in arms:
            detector = detector_of(run)
            key = ("fine-tuning", base_arm(arms[run], detector), run.setting[0], detector)
            groups.setdefault(key, []).append(run)
    costs = ["minutes a run", "device hours", "FLOP", "energy (kWh)", "device"]
    table = Table(["stage", "arm", "data", "detector", "runs", *costs], num_text_columns=4)
    for key, members in groups.items():
        known = [run.metadata for run in members]
        minutes = [one.minutes for one in known if one.minutes is not None]
        devices = Counter(one.compute_device for one in known if one.compute_device)
        row = [
            *(*key, str(len(members))),
            f"{sum(minutes) / len(minutes):.1f}" if minutes else "-",
            _total([one.compute_hours for one in known], ".2f"),
            _total([one.flop for one in known], ".2e"),
            _total([one.energy_kwh for one in known], ".3g", "unknown"),
            ", ".join(devices) or "-",
        ]
        stage, arm, data, detector = key
        table.add(row, {"arm": arm, "data": data, "detector": detector} if stage == "fine-tuning" else {"arm": arm})
    return table


def _total(values: Sequence[float | None], digits: str, unknown: str = "-") -> str:
    """Return a sum; `at least` where some runs do not say, and `unknown` where none does."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return unknown
    return f"{'at least ' if len(known) < len(values) else ''}{sum(known):{digits}}"


def _together(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of one run, or the mean of several with its range."""
    return estimates[0] if len(estimates) == 1 else range_of([one.value for one in estimates])


def _has_steps(conditions: Sequence[Condition]) -> bool:
    return any(one.place.steps != WHOLE for one in conditions)


def _heading(conditions: Sequence[Condition]) -> list[str]:
    detector = ["detector"] if any(one.place.detector for one in conditions) else []
    return ["data set", *detector, "labels", *(["steps"] if _has_steps(conditions) else []), "arm"]


def _place_of(one: Condition, conditions: Sequence[Condition]) -> list[str]:
    detector = [one.place.detector] if any(other.place.detector for other in conditions) else []
    steps = [one.place.steps] if _has_steps(conditions) else []
    return [one.place.data, *detector, one.place.labels, *steps, one.arm]


def tables_by_data(
    conditions: Sequence[Condition], make: Callable[[Sequence[Condition]], Table]
) -> list[tuple[str, Table]]:
    """Return a table per data set, those that have columns of their own."""
    groups: dict[str, list[Condition]] = {}
    for one in conditions:
        groups.setdefault(one.place.data, []).append(one)
    tables = [(name, make(members)) for name, members in groups.items()]
    return [(name, table) for name, table in tables if table.rows and len(table.header) > table.num_text_columns]
