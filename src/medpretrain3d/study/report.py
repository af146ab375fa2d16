"""One HTML page about a group of runs: what was compared, what came out, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from medpretrain3d.atomic import write_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.study.answers import answers
from medpretrain3d.study.design import NOTHING_DECLARED, Declaration
from medpretrain3d.study.differences import metric_beside, paired_differences
from medpretrain3d.study.figures import Figure, curve_figure, froc_figure, label_figure
from medpretrain3d.study.gallery import Comparison, Picture, data_uri, example_cases, reconstruction_previews
from medpretrain3d.study.identity import arm_labels, identify
from medpretrain3d.study.overview import overview
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.run import Run
from medpretrain3d.study.seen_scans import seen_notes
from medpretrain3d.study.summary import Finding, answer_findings, findings, question
from medpretrain3d.study.table import Estimate, Table
from medpretrain3d.study.tables import class_table, difference_table, metadata_table, result_table
from medpretrain3d.visualization.line_plot import HEIGHT, WIDTH


@dataclass(frozen=True)
class Report:
    """Everything the page says, in the order it says it."""

    title: str
    question: str
    metric: NamedMetric
    """The primary one."""
    beside: NamedMetric
    confidence_percent: str
    answers: list[Finding]
    """To the hypotheses that were declared."""
    verdicts: list[Finding]
    overview: list[str]
    notes: list[str]
    legend: list[tuple[str, int]]
    results: Table
    differences: Table
    classes: list[tuple[str, Table]]
    label_figures: list[Figure]
    froc_figures: list[Figure]
    pretrain_figures: list[Figure]
    finetune_figures: list[Figure]
    reconstruction_previews: list[Comparison]
    cases: list[Comparison]
    metadata: Table

    def __str__(self) -> str:
        """Format the report for a terminal: the sentence, the verdicts and the two tables of numbers."""
        parts = [self.question, str(self.results)]
        if self.differences.rows:
            parts.append("Difference from the baseline, paired by seed and test case:\n" + str(self.differences))
        if self.answers:
            parts.append("Hypotheses:\n" + "\n".join(map(str, self.answers)))
        parts.append("\n".join(map(str, self.verdicts)))
        parts.append("\n".join(self.overview))
        parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(part for part in parts if part)


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
    arms = arm_labels(finetuning, identities)
    colors = _colors(finetuning, pretraining, arms)
    metric = declaration.metric
    scorer = Scorer([metric, metric_beside(metric)])
    differences, unpaired = paired_differences(finetuning, identities, arms, declaration, scorer)
    answered, unanswered = answers(declaration, finetuning, scorer)
    primary = {run: _estimate(run, metric, scorer) for run in finetuning if run.is_tested}
    return Report(
        title=title,
        question=question(finetuning, pretraining, arms),
        confidence_percent=" or ".join(
            sorted({f"{100 * run.metrics.get('confidence', 0.95):g} %" for run in finetuning if run.is_tested})
        ),
        metric=metric,
        beside=metric_beside(metric),
        answers=answer_findings(answered, metric),
        verdicts=findings(differences, metric),
        overview=overview(differences, declaration),
        notes=[
            *(problem for run in runs for problem in run.problems),
            *_missing(pretraining, finetuning),
            *seen_notes(finetuning),
            *dict.fromkeys([*unpaired, *unanswered]),
            *_old_intervals(finetuning),
        ],
        legend=list(dict.fromkeys((arms[run], colors[run]) for run in finetuning)),
        results=result_table(finetuning, arms, metric, primary),
        differences=difference_table(differences, metric),
        classes=[(name, class_table(members, arms)) for name, members in _by_dataset(finetuning).items()],
        label_figures=_drawn(
            label_figure(name, members, arms, colors, metric, primary)
            for name, members in _by_dataset(finetuning).items()
        ),
        froc_figures=_drawn(froc_figure(name, members, colors) for name, members in by_setting(finetuning).items()),
        pretrain_figures=_drawn(
            curve_figure(f"Pretraining by {method}: {label}", members, colors, column, label)
            for method, members in _by_method(pretraining).items()
            for column, label in (("train/loss", "training loss"), ("val/loss", "validation loss"))
        ),
        finetune_figures=_drawn(
            curve_figure(f"{name}: {label}", members, colors, column, label)
            for name, members in by_setting(finetuning).items()
            for column, label in (("train/loss", "training loss"), ("val/mAP", "validation mAP"))
        ),
        reconstruction_previews=reconstruction_previews(pretraining),
        cases=_cases(finetuning, arms),
        metadata=metadata_table(runs),
    )


def write_report(report: Report, path: Path) -> None:
    """Write the page: one file that needs no other and asks no network.

    Raises:
        UserError: the file cannot be written.
    """
    template = _environment().get_template("report.html.jinja")
    write_text(Path(path), template.render({field.name: getattr(report, field.name) for field in fields(report)}))


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every plot as an SVG file of its own, with legend and style, named after its heading.

    Raises:
        UserError: a file cannot be written.
    """
    figures = (*report.label_figures, *report.froc_figures, *report.pretrain_figures, *report.finetune_figures)
    template = _environment().get_template("figure.svg.jinja")
    written = []
    for figure in figures:
        written.append(Path(folder) / (re.sub(r"[^a-z0-9]+", "_", figure.title.lower()).strip("_") + ".svg"))
        write_text(written[-1], template.render(figure=figure, width=WIDTH, height=HEIGHT))
    return written


def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("medpretrain3d", "study"), autoescape=True, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.filters["drawing"] = Markup  # our own SVG, whose texts are escaped where it is made
    return environment


def by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that are plotted beside each other, by the words for what they share."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        dataset, num_cases = run.setting
        groups.setdefault(f"{dataset}, {num_cases} labelled cases", []).append(run)
    return groups


def _by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return losses of different objectives are no numbers to be seen on one axis."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    return groups


def _by_dataset(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting[0], []).append(run)
    return {name: members for name, members in groups.items() if any(run.is_tested for run in members)}


def _colors(finetuning: Sequence[Run], pretraining: Sequence[Run], arms: Mapping[Run, str]) -> dict[Run, int]:
    names = list(dict.fromkeys(arms.values()))
    names.sort(key=lambda name: not name.startswith("scratch"))
    colors = {run: names.index(arms[run]) for run in finetuning}
    # A pretraining run has the colour of the runs that grew from it.
    grown = {run.method: colors[run] for run in finetuning}
    grown |= {str(run.metadata.pretrain_run): colors[run] for run in finetuning}
    return colors | {
        run: grown.get(run.name, grown.get(run.method, len(names) + place)) for place, run in enumerate(pretraining)
    }


def _cases(runs: Sequence[Run], arms: Mapping[Run, str]) -> list[Comparison]:
    shown = []
    groups = {name: [run for run in members if run.is_tested] for name, members in by_setting(runs).items()}
    settings = [name for name, members in groups.items() if members]
    for setting in dict.fromkeys([*settings[:1], *settings[-1:]]):  # more would make a page of many megabytes
        one_per_arm = list({arms[run]: run for run in reversed(groups[setting])}.values())[::-1]
        for case, why in example_cases(one_per_arm).items():
            pictures = [
                Picture(data_uri(run.pictures[case]), f"{arms[run]}: score {run.case_scores[case]:.3f}")
                for run in one_per_arm
            ]
            shown.append(Comparison(f"{setting}: case {case}, {why}", pictures))
    return shown


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


def _missing(pretraining: Sequence[Run], finetuning: Sequence[Run]) -> list[str]:
    notes = []
    if not pretraining:
        notes.append("No pretraining run in these folders: its curves and restorations are not shown.")
    if not finetuning:
        notes.append("No fine-tuning run in these folders: there is nothing to compare yet.")
    for run in (*pretraining, *finetuning):
        if not run.is_finished:
            notes.append(f"{run.name}: is not finished; shown as far as it got.")
        elif run in finetuning and not run.is_tested:
            notes.append(f"{run.name}: was not tested (no {MAP_KEY} in test/metrics.json).")
        if run.is_tested and not run.pictures:
            notes.append(f"{run.name}: has no pictures of test cases (test/pictures is missing or empty).")
        if not run.curves:
            notes.append(f"{run.name}: has no curves (metrics.csv is missing or empty).")
    return notes


def _old_intervals(runs: Sequence[Run]) -> list[str]:
    old = [run.name for run in runs if run.is_tested and "interval_method" not in run.metrics]
    if not old:
        return []
    return [
        f"{', '.join(old)}: the intervals in test/metrics.json are of an earlier version and cover less than they say; "
        "they are not shown. `medpretrain3d evaluate` on test/predictions.json and test/targets.json makes new ones."
    ]
