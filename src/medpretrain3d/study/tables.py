"""Tables of the runs of a report, a row per run or pair of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medpretrain3d.evaluation.named_metrics import AP10, AP50, FROC, MAP, NamedMetric
from medpretrain3d.study.conditions import WHOLE, base_arm, detector_of, labels_of, steps_of
from medpretrain3d.study.differences import Difference, metric_beside
from medpretrain3d.study.encoders import seeds_of_encoders
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Cell, Estimate, PValue, Table

METADATA = (
    "stage",
    "paradigm",
    "method",
    "backbone",
    "params",
    "corpus",
    "num_pretrain_volumes",
    "pretrain_run",
    "semi_supervised",
    "unlabeled_corpus",
    "num_unlabeled_volumes",
    "num_test_cases_seen",
    "num_val_cases_seen",
    "num_test_cases_seen_with_labels",
    "dataset",
    "seed",
    "fold",
    "steps",
    "minutes",
    "compute_hours",
    "flop",
    "energy_kwh",
    "energy_of",
    "machine",
    "git_sha",
    "data_fingerprint",
    "checkpoint_sha256",
)


SHOWN = (MAP, AP10, AP50, FROC)
"""Metrics of the results table, beside the primary one."""


def result_table(
    runs: Sequence[Run], arms: Mapping[Run, str], metric: NamedMetric, primary: Mapping[Run, Estimate]
) -> Table:
    """Return one row per fine-tuning run, with intervals.

    Args:
        runs: of fine-tuning.
        arms: what the arm of each is called.
        metric: the primary one.
        primary: what the tested runs reach in it.
    """
    shown = tuple(dict.fromkeys((metric, *SHOWN)))
    header = ["run", "started from", "labels", "seed", "steps", *(one.name for one in shown), "minutes"]
    table = Table(header, num_text_columns=2)
    for run in runs:
        facts = {"arm": base_arm(arms[run], detector_of(run)), "data": run.setting[0], "labels": labels_of(run)}
        facts |= {"steps": steps_of(run)}
        estimates = [primary.get(run, Estimate(None)) if one is metric else run.estimate(str(one.key)) for one in shown]
        before = [run.name, arms[run], _labels(run), _field(run, "seed"), _steps(run)]
        table.add([*before, *estimates, _field(run, "minutes")], facts | {"detector": detector_of(run)})
    for row in _baseline_rows(runs, shown):
        table.add(row, {})
    return table


def _baseline_rows(runs: Sequence[Run], shown: Sequence[NamedMetric]) -> list[Sequence[Cell]]:
    """Return the trivial baselines of each setting; of several sets of training boxes the ones that are harder to beat.

    They know the boxes of the labeled cases, which a seed chooses.
    """
    best: dict[tuple[str, tuple[str, int]], tuple[float, Sequence[Cell]]] = {}
    for run in runs:
        for name in run.baseline_names:
            estimates = [run.baseline_estimate(name, one.key or one.name) for one in shown]
            value = estimates[0].value if estimates[0].is_known else None
            row: list[Cell] = [name, "training boxes alone", _labels(run), "-", "-", *estimates, "-"]
            if value is not None and value > best.get((name, run.setting), (-1.0, ()))[0]:
                best[name, run.setting] = value, row
    return [row for _, row in best.values()]


def difference_table(differences: Sequence[Difference], metric: NamedMetric) -> Table:
    """Return one row per arm and setting: arm minus baseline, over its seeds, in the primary metric and one beside."""
    measured = [metric.name, metric_beside(metric).name]
    has_steps = any(steps_of(one.runs[0]) != WHOLE for one in differences)
    before = ["arm", "data set", "labels", *(["steps"] if has_steps else []), "seeds", "cases"]
    table = Table([*before, *measured, "p (Holm)", f"on {metric}"], num_text_columns=2)
    has_detectors = len({detector_of(one.runs[0]) for one in differences}) > 1
    for one in differences:
        cases = (
            str(one.num_cases)
            if one.num_patients >= one.num_cases
            else f"{one.num_cases} of {one.num_patients} patients"
        )
        labels = " ".join(str(count) for count in sorted({run.setting[1] for run in one.runs}))
        effect = one.judged.effect
        seeds = seeds_of_encoders(effect.num_finetuning_seeds, effect.num_seeds)
        detector = detector_of(one.runs[0])
        arm, data = base_arm(one.arm, detector), one.setting[0]
        steps = steps_of(one.runs[0])
        facts = {"arm": arm, "data": data, "labels": labels_of(one.runs[0]), "steps": steps}
        where = f"{one.place}, {detector}" if has_detectors else one.place
        table.add(
            [
                *(arm, where, labels, *([steps] if has_steps else []), seeds, cases),
                *(one.estimate, one.other_estimate, PValue(one.judged.corrected_p_value)),
                f"{one.judged.verdict}{'' if one.is_primary else ' (exploratory)'}",
            ],
            facts | {"detector": detector},
        )
    return table


def provenance_table(runs: Sequence[Run]) -> Table:
    """Return the code, data, machines and encoders of all runs, a row each, with how many runs are of it."""
    kinds = {
        "commit": "git_sha",
        "version": "medpretrain3d_version",
        "data": "data_fingerprint",
        "encoder": "checkpoint_sha256",
        "machine": "machine",
        "precision": "precision",
    }
    table = Table(["what", "value", "of", "runs"], num_text_columns=3)
    for kind, name in kinds.items():
        found: dict[str, list[Run]] = {}
        for run in runs:
            if getattr(run.metadata, name) is not None:
                found.setdefault(_field(run, name), []).append(run)
        for value, members in found.items():
            of = {
                "data": {run.metadata.dataset or run.metadata.corpus or "-" for run in members},
                "encoder": {run.method for run in members},
            }.get(kind, {str(run.metadata.stage) for run in members})
            table.rows.append([kind, value, ", ".join(sorted(of)), str(len(members))])
    return table


def metadata_table(runs: Sequence[Run]) -> Table:
    """Build the table of run metadata, which says where each number comes from."""
    shown = [name for name in METADATA if any(getattr(run.metadata, name) is not None for run in runs)]
    rows: list[Sequence[Cell]] = [[run.name, *(_field(run, name) for name in shown)] for run in runs]
    return Table(["run", *(name.replace("_", " ") for name in shown)], rows, num_text_columns=1 + len(shown))


def _labels(run: Run) -> str:
    fraction = run.metadata.label_fraction
    share = "" if fraction is None else f" ({100 * fraction:.3g} %)"
    return f"{_field(run, 'num_train_cases')}{share}"


def _steps(run: Run) -> str:
    done, budget = run.metadata.steps, run.metadata.budget_steps
    if run.is_finished or budget is None:
        return _text(done if done is not None else budget)
    return f"{_text(done)} of {_text(budget)}" if done is not None else "unfinished"


def _field(run: Run, name: str) -> str:
    return _text(getattr(run.metadata, name), shorten=name.endswith(("sha256", "fingerprint")))


def _text(value: Any, shorten: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:12] if shorten else str(value)
