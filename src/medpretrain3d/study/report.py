"""A report about a group of runs: what was compared, what came out, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.study.answers import answers
from medpretrain3d.study.condition_tables import (
    by_place,
    case_table,
    class_table,
    cost_table,
    error_table,
    matrix_table,
    size_table,
    tables_by_data,
)
from medpretrain3d.study.conditions import WHOLE, Condition, Place, base_arm, detector_of, find_conditions
from medpretrain3d.study.design import NOTHING_DECLARED, Declaration
from medpretrain3d.study.differences import metric_beside, paired_differences
from medpretrain3d.study.efficiency import efficiencies, efficiency_table
from medpretrain3d.study.encoders import encoder_notes
from medpretrain3d.study.figures import (
    IOUS,
    Figure,
    curve_figure,
    error_figure,
    forest_figure,
    froc_figure,
    label_figure,
    precision_figure,
    size_figure,
    step_figure,
)
from medpretrain3d.study.gallery import Comparison, case_pictures, reconstruction_previews
from medpretrain3d.study.identity import arm_labels, identify
from medpretrain3d.study.overview import overview
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.report_notes import (
    earlier_version_notes,
    missing_notes,
    patient_notes,
    trivial_notes,
    undefined_metric_notes,
    unlike_scan_notes,
)
from medpretrain3d.study.run import Run
from medpretrain3d.study.run_groups import arm_colors, runs_by_method, runs_by_place
from medpretrain3d.study.seen_scans import seen_notes
from medpretrain3d.study.slice_viewer import viewed_cases
from medpretrain3d.study.summary import Finding, answer_findings, findings, in_short, question
from medpretrain3d.study.table import Estimate, Table
from medpretrain3d.study.tables import difference_table, metadata_table, provenance_table, result_table
from medpretrain3d.study.training_losses import training_loss_table
from medpretrain3d.visualization.viewed_case import ViewedCase

FINETUNE_CURVES = (
    ("train/loss", "training loss"),
    ("val/mAP", "validation mAP"),
    ("val/AP_center", "validation AP by distance"),
)
"""Columns of `metrics.csv` that are drawn, and what they are."""


@dataclass(frozen=True)
class CaseTable:
    """The test cases of one place."""

    title: str
    table: Table
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """Everything the page says, in the order it says it."""

    title: str
    question: str
    metric: NamedMetric
    """The primary one."""
    beside: NamedMetric
    confidence_percent: str
    short: list[Finding]
    """A sentence per hypothesis that was declared, or per arm where none was."""
    forest: Figure | None
    answers: list[Finding]
    """To the hypotheses that were declared, on each data set."""
    verdicts: list[Finding]
    overview: list[str]
    notes: list[str]
    legend: list[tuple[str, int]]
    """Of the arms."""
    places: list[Place]
    matrix: Table
    label_figures: list[Figure]
    step_figures: list[Figure]
    efficiency: Table
    """What the budgets of labels and steps are worth."""
    differences: Table
    froc_figures: list[Figure]
    precision_figures: list[Figure]
    classes: list[tuple[str, Table]]
    size_figures: list[Figure]
    sizes: list[tuple[str, Table]]
    viewed_cases: list[ViewedCase]
    cases: list[Comparison]
    """Pictures of the runs themselves, where there are no slices to draw on."""
    case_tables: list[CaseTable]
    error_figures: list[Figure]
    errors: list[tuple[str, Table]]
    pretrain_figures: list[Figure]
    finetune_figures: list[Figure]
    training_losses: Table
    """Of arms minus baselines, in each quarter of the run."""
    reconstruction_previews: list[Comparison]
    costs: Table
    results: Table
    provenance: Table
    metadata: Table

    def __str__(self) -> str:
        """Format the report for a terminal: the sentence, the verdicts and the two tables of numbers."""
        parts = [self.question, str(self.results)]
        if self.differences.rows:
            parts.append("Difference from the baseline, paired by seed and test case:\n" + str(self.differences))
        if self.efficiency.rows:
            parts.append(
                "Budgets (the share with which an arm reaches the baseline's final result):\n" + str(self.efficiency)
            )
        if self.training_losses.rows:
            parts.append(
                "Training loss, arm minus baseline, over seeds (corrected for nothing):\n" + str(self.training_losses)
            )
        if self.answers:
            parts.append("Hypotheses:\n" + "\n".join(map(str, self.answers)))
        parts.append("\n".join(map(str, self.verdicts)))
        parts.append("\n".join(self.overview))
        parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(part for part in parts if part)

    @property
    def figures(self) -> list[Figure]:
        """Every plot."""
        return [
            *([self.forest] if self.forest else []),
            *(*self.label_figures, *self.step_figures, *self.froc_figures, *self.precision_figures, *self.size_figures),
            *(*self.error_figures, *self.pretrain_figures, *self.finetune_figures),
        ]

    @property
    def tables(self) -> dict[str, Table]:
        """Every table of numbers by its name, those of one kind on several data sets by theirs."""
        named = {"matrix": self.matrix, "efficiency": self.efficiency, "differences": self.differences}
        named |= {"training losses": self.training_losses}
        named |= {"results": self.results, "cost": self.costs}
        for kind, tables in (("classes", self.classes), ("sizes", self.sizes), ("errors", self.errors)):
            named |= {f"{kind} {name}": table for name, table in tables}
        named |= {f"cases {one.title}": one.table for one in self.case_tables}
        return {name: table for name, table in {**named, "runs": self.metadata}.items() if table.rows}


def make_report(
    runs: Sequence[Run],
    title: str,
    declaration: Declaration = NOTHING_DECLARED,
    arm_options: Collection[str] = (),
) -> Report:
    """Read, compare and draw.

    Args:
        runs: of both stages.
        title: heading of the page.
        declaration: metric, budget, delta and hypotheses; where no delta was declared nothing is called equivalent.
        arm_options: options that a study gives to its arms: they are what the arm is and not what has to be alike.

    Raises:
        UserError: nothing can be shown. What of a run is damaged or missing is said in the report's notes.
    """
    pretraining = [run for run in runs if run.metadata.stage == "pretrain"]
    finetuning = [run for run in runs if run.metadata.stage == "finetune"]
    identities = identify(finetuning, pretraining, arm_options)
    labels = arm_labels(finetuning, identities)
    arms = {run: base_arm(labels[run], detector_of(run)) for run in finetuning}
    colors = arm_colors(finetuning, pretraining, arms)
    metric = declaration.metric
    scorer = Scorer([metric, metric_beside(metric)])
    differences, unpaired = paired_differences(finetuning, identities, labels, declaration, scorer)
    answered, unanswered = answers(declaration, finetuning, scorer, identities)
    primary = {run: _estimate(run, metric, scorer) for run in finetuning if run.is_tested}
    conditions = find_conditions(finetuning, labels, colors, declaration, scorer)
    places = by_place(conditions)
    chosen = {place: members for place, members in places.items() if members[0].is_primary} or places
    worth, unknown = efficiencies(differences)
    over_labels: dict[str, list[Condition]] = {}
    over_steps: dict[tuple[str, str], list[Condition]] = {}
    for one in conditions:
        over_steps.setdefault((one.place.network, one.place.labels), []).append(one)
        if one.place.steps == WHOLE:
            over_labels.setdefault(one.place.network, []).append(one)
    viewed, unviewed = _viewed(chosen, scorer)
    return Report(
        title=title,
        question=question(finetuning, pretraining, arms),
        metric=metric,
        beside=metric_beside(metric),
        confidence_percent=" or ".join(
            sorted({f"{100 * run.metrics.get('confidence', 0.95):g} %" for run in finetuning if run.is_tested})
        ),
        short=in_short(answered, differences, metric),
        forest=forest_figure(differences, colors, metric, f"Difference of {metric} from the baseline"),
        answers=answer_findings(answered, metric),
        verdicts=findings(differences, metric),
        overview=overview(differences, worth, declaration, scorer),
        notes=[
            *(problem for run in runs for problem in run.problems),
            *missing_notes(pretraining, finetuning),
            *seen_notes(finetuning),
            *encoder_notes(finetuning, pretraining, arms),
            *dict.fromkeys([*unpaired, *unanswered, *unknown]),
            *undefined_metric_notes(finetuning, metric),
            *patient_notes(finetuning),
            *unlike_scan_notes(places),
            *trivial_notes(places, metric),
            *unviewed,
            *earlier_version_notes(finetuning),
        ],
        legend=sorted(dict.fromkeys((arms[run], colors[run]) for run in finetuning), key=lambda one: one[1]),
        places=list(places),
        matrix=matrix_table(conditions, differences, metric),
        label_figures=_drawn(label_figure(members, metric) for members in over_labels.values()),
        step_figures=_drawn(step_figure(members, metric) for members in over_steps.values()),
        efficiency=efficiency_table(worth, metric),
        differences=difference_table(differences, metric),
        froc_figures=_drawn(map(froc_figure, chosen.values())),
        precision_figures=_drawn(precision_figure(members, iou) for members in chosen.values() for iou in IOUS),
        classes=tables_by_data(conditions, class_table),
        size_figures=_drawn(map(size_figure, chosen.values())),
        sizes=tables_by_data(conditions, size_table),
        viewed_cases=viewed,
        cases=[one for members in _ends(chosen) for one in case_pictures(members)] if not viewed else [],
        case_tables=[CaseTable(str(place), case_table(members), place.facts) for place, members in chosen.items()],
        error_figures=_drawn(map(error_figure, chosen.values())),
        errors=tables_by_data(conditions, error_table),
        pretrain_figures=_drawn(
            curve_figure(f"Pretraining by {method}: {label}", members, {}, colors, column, label)
            for method, members in runs_by_method(pretraining).items()
            for column, label in (("train/loss", "training loss"), ("val/loss", "validation loss"))
        ),
        finetune_figures=_drawn(
            curve_figure(f"{place}: {label}", members, arms, colors, column, label, place.facts)
            for place, members in runs_by_place(finetuning).items()
            for column, label in FINETUNE_CURVES
        ),
        training_losses=training_loss_table(differences),
        reconstruction_previews=reconstruction_previews(pretraining),
        costs=cost_table(runs, labels),
        results=result_table(finetuning, labels, metric, primary),
        provenance=provenance_table(runs),
        metadata=metadata_table(runs),
    )


def _ends(places: Mapping[Place, list[Condition]]) -> list[list[Condition]]:
    """Return the first and the last: pictures of more would make a page of many megabytes."""
    members = list(places.values())
    return [*members[:1], *members[1:][-1:]]


def _viewed(places: Mapping[Place, list[Condition]], scorer: Scorer) -> tuple[list[ViewedCase], list[str]]:
    """Return the cases to look at, and what of them cannot be read."""
    shown, said = [], []
    for members in places.values():
        try:
            shown += viewed_cases(members, scorer)
        except UserError as error:
            said.append(str(error))
    return shown, said


def _estimate(run: Run, metric: NamedMetric, scorer: Scorer) -> Estimate:
    """Return what a tested run reaches in the primary metric: as its test says, or from its predictions."""
    if metric.key is not None and metric.key in run.metrics:
        return run.estimate(metric.key)
    try:
        found = scorer.scores([run])[metric.name]
        return Estimate(found.value, *found.interval())
    except UserError as error:
        run.problems.append(f"{run.name}: no {metric}: {error}")
        return Estimate(None)


def _drawn(figures: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]
