"""Answers to the hypotheses of a study: confirmed, refuted, equivalent, inconclusive, and what would settle that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medpretrain3d.statistics import (
    MIN_DATA_SETS,
    Answer,
    Effect,
    Hypothesis,
    arm_effect,
    judge,
    pilot_components,
    pool,
    settling_designs,
)
from medpretrain3d.statistics.hypotheses import Link, Side
from medpretrain3d.statistics.two_way import VarianceComponents
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.data_sets import left_out, why_not_pooled
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.differences import have_same_labels
from medpretrain3d.study.identity import BUDGET_FACTS, Identity, identify
from medpretrain3d.study.paired_scores import Pair, Scorer, paired_scores
from medpretrain3d.study.run import Run

Place = tuple[str, str]
"""A data set and a detector; the data set is empty where several are pooled."""


@dataclass(frozen=True)
class Comparison:
    """A link of a hypothesis in one place, before it is judged."""

    link: Link
    effect: Effect
    components: VarianceComponents | None = None
    """None with one seed, and where data sets are pooled."""
    num_groups: int = 0
    """Patients, or groups of patients, that the components are of."""
    runs: tuple[Run, ...] = ()
    """Of the first side, where it is one data set."""


@dataclass(frozen=True)
class Tested:
    """A link of a hypothesis, judged."""

    link: Link
    judged: Judgement
    answer: Answer
    settled_by: str
    """The size of study that would settle it, in words; empty where it is, or nothing is known of the spread."""


@dataclass(frozen=True)
class Answered:
    """A hypothesis in one place."""

    hypothesis: Hypothesis
    data: str
    """Name of the data set, empty for several pooled."""
    detector: str
    links: tuple[Tested, ...]

    @property
    def answer(self) -> Answer:
        """Of all links together."""
        return Hypothesis.combined([one.answer for one in self.links])

    @property
    def deciding(self) -> Tested:
        """The first link whose answer is that of all."""
        return next(one for one in self.links if one.answer is self.answer)


def answers(
    declaration: Declaration, runs: Sequence[Run], scorer: Scorer, identities: Mapping[Run, Identity] | None = None
) -> tuple[list[Answered], list[str]]:
    """Return the answers to the declared hypotheses on every data set with every detector, and what is missing.

    All that is asked of one data set and detector is one family (Holm), whether it is run yet or not, and so are the
    hypotheses over data sets.

    Args:
        declaration: hypotheses, metric, budget and delta.
        runs: of the study.
        scorer: of the runs by the primary metric.
        identities: of the runs, see `identify`.
    """
    cells = _cells(runs)
    known_as = identify(runs, ()) if identities is None else identities
    places = list(dict.fromkeys((data, detector) for data, detector, *_ in cells))
    said: list[str] = []
    asked: dict[Place, dict[Hypothesis, list[Comparison]]] = {}
    for hypothesis in declaration.hypotheses:
        for place in places:
            if hypothesis.data in (None, place[0]):
                found = [
                    _compared(link, place, cells, declaration, scorer, known_as, said) for link in hypothesis.links
                ]
                known = [one for one in found if one is not None]
                if len(known) == len(found):
                    asked.setdefault(place, {})[hypothesis] = known
    result = [one for place in places for one in _judged(place, asked.get(place, {}), declaration)]
    for detector in dict.fromkeys(detector for _, detector in places):
        of_detector = [asked[place] for place in places if place[1] == detector and place in asked]
        pooled = _pooled(declaration.hypotheses, of_detector, scorer, said)
        result += _judged(("", detector), pooled, declaration)
    for hypothesis in declaration.hypotheses:
        if not any(one.hypothesis == hypothesis for one in result):
            said.append(f"hypothesis '{hypothesis}': not answered, no tested runs of both sides yet")
    order = {hypothesis: place for place, hypothesis in enumerate(declaration.hypotheses)}
    return sorted(result, key=lambda one: order[one.hypothesis]), said


Cell = tuple[str, str, str, str, float]
"""Data set, detector, arm, labels and share of the steps."""


def _cells(runs: Sequence[Run]) -> dict[Cell, list[Run]]:
    """Return tested runs of a study by where they stand; of an arm with steps of its own under each of its names."""
    cells: dict[Cell, list[Run]] = {}
    for run in runs:
        if run.design is not None and run.is_tested:
            own = run.design
            points = {(own["arm"], float(own.get("steps", 1)))}
            if (budget := run.step_budget) is not None:
                points |= {(budget.arm, budget.share), (own["arm"], budget.share)}
            for arm, share in points:
                cells.setdefault((own["data"], own.get("detector", ""), arm, own["labels"], share), []).append(run)
    return cells


def _compared(
    link: Link,
    place: Place,
    cells: dict[Cell, list[Run]],
    declaration: Declaration,
    scorer: Scorer,
    identities: Mapping[Run, Identity],
    said: list[str],
) -> Comparison | None:
    def members(side: Side) -> list[Run]:
        steps = 1.0 if side.steps is None else side.steps
        return cells.get((*place, side.arm, side.labels or declaration.labels, steps), [])

    others = {(run.metadata.seed, run.metadata.fold): run for run in members(link.other)}
    budgets = {
        (side.labels, side.steps) for side in (one.resolved(declaration.labels) for one in (link.arm, link.other))
    }
    of_budgets = BUDGET_FACTS if len(budgets) > 1 else ()
    pairs: list[Pair] = []
    for run in members(link.arm):
        other = others.get((run.metadata.seed, run.metadata.fold))
        if other is None:
            continue
        if why := _why_apart(run, other, identities, of_budgets):
            said.append(f"{run.name}: not compared with {other.name}: {why}")
        else:
            pairs.append((run, other))
    if not pairs:
        return None
    scored, missing = paired_scores((str(link.arm), str(link.other)), pairs, scorer)
    said += missing
    if scored is None:
        return None
    arm, base = (side[declaration.metric.name] for side in (scored.arm, scored.other))
    effect = replace(arm_effect(arm, base), name=str(link))
    components = pilot_components(arm, base) if effect.is_about_method else None
    return Comparison(link, effect, components, arm.without.shape[-1], tuple(run for run, _ in scored.pairs))


def _pooled(
    hypotheses: Sequence[Hypothesis],
    places: Sequence[dict[Hypothesis, list[Comparison]]],
    scorer: Scorer,
    said: list[str],
) -> dict[Hypothesis, list[Comparison]]:
    """Return hypotheses over data sets, those of enough of them that have nothing in common."""
    pooled = {}
    for hypothesis in hypotheses:
        members = [one[hypothesis] for one in places if hypothesis in one]
        if len(members) >= MIN_DATA_SETS:
            if why := why_not_pooled([one[0].runs for one in members], scorer):
                said.append(f"hypothesis '{hypothesis}': not pooled over {len(members)} data sets: {why}")
                continue
            columns = list(zip(*members, strict=True))
            for column in columns:
                if without := left_out([one.runs[0].data_name for one in column], [one.effect for one in column]):
                    said.append(f"hypothesis '{hypothesis}': {column[0].link} is pooled {without}")
            pooled[hypothesis] = [
                Comparison(column[0].link, pool([one.effect for one in column]).effect) for column in columns
            ]
    return pooled


def _why_apart(run: Run, other: Run, known: Mapping[Run, Identity], but: Sequence[str]) -> str:
    """Return in words why two runs of the arms and budgets of a hypothesis are no pair; empty where they are."""
    differing = known[run].differing(known[other], but)
    if differing:
        return f"differs in {'; '.join(differing)}"
    return "" if but or have_same_labels(run, other) else "trained on other labeled cases"


def _judged(place: Place, asked: dict[Hypothesis, list[Comparison]], declaration: Declaration) -> list[Answered]:
    labels = declaration.labels
    # A comparison that several hypotheses ask for, from either side, is asked once.
    first: dict[frozenset[Side], Comparison] = {}
    for members in asked.values():
        for one in members:
            first.setdefault(one.link.question(labels), one)
    effects = [one.effect for one in first.values()]
    judged = dict(
        zip(first, judge(effects, declaration.delta, num_declared=declaration.num_asked(*place)), strict=True)
    )
    result = []
    for hypothesis, members in asked.items():
        links = []
        for one in members:
            question = one.link.question(labels)
            judgement = judged[question]
            if one.link.arm.resolved(labels) != first[question].link.arm.resolved(labels):
                judgement = judgement.mirrored
            answer = one.link.answer(judgement)
            settled = _settled_by(one, judgement) if answer is Answer.INCONCLUSIVE else ""
            links.append(Tested(one.link, judgement, answer, settled))
        result.append(Answered(hypothesis, *place, tuple(links)))
    return result


def _settled_by(one: Comparison, judged: Judgement) -> str:
    """Return the size of study that would show a difference of delta, or that there is none; in words."""
    wanted = judged.delta if judged.delta is not None else abs(one.effect.difference)
    if one.components is None or not one.components.is_known or not wanted > 0:
        return ""
    # Two one-sided tests of 5 % each pass with 80 % where each passes with 90; one of them with 80.
    settings = {"=": (0.9, 0.1, 1), ">=": (0.8, 0.1, 1), "<=": (0.8, 0.1, 1)}
    power, alpha, number = settings.get(one.link.relation, (0.8, 0.05, judged.num_asked))
    seeds, patients = one.effect.num_seeds, one.effect.num_patients
    units = "scans" if one.effect.of_patients is None else "patients"
    draws = "seeds" if one.effect.with_seeds is None else "encoders"
    found = settling_designs(one.components, seeds, one.num_groups, wanted, power, alpha, number)
    words = []
    for design in found:
        these = "these " if design.num_scans == one.num_groups else ""
        size = round(design.num_scans * patients / one.num_groups)
        words.append(f"{design.num_seeds} {draws} on {these}{size} {units}")
    what = "no difference" if one.link.needs_delta else "a difference"
    if not words:
        return f"neither 100 {draws} on these {units} nor 32 times the {units} alone would show {what} of {wanted:.3g}"
    return f"about {' or '.join(words)} would settle it (80 % power for {what} of {wanted:.3g})"
