"""Conditions of a study: the runs that differ in seed and fold alone, and what they reach together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import CONFIDENCE
from medpretrain3d.evaluation.named_metrics import LeftOut, NamedMetric
from medpretrain3d.statistics import are_at_limit, pseudo_values
from medpretrain3d.statistics.two_way import effect_of
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.encoders import alike_in_encoder
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Estimate, is_finite

WHOLE = "1"
"""All of the steps, as a share in words."""


@dataclass(frozen=True)
class Place:
    """Where arms are compared: a data set, a detector, and budgets of labels and of steps in words."""

    data: str
    detector: str
    labels: str
    steps: str = WHOLE
    """Share of the steps that every arm makes there."""

    @property
    def network(self) -> str:
        """Data set and detector in words."""
        return f"{self.data}, {self.detector}" if self.detector else self.data

    def __str__(self) -> str:
        steps = "" if self.steps == WHOLE else f", {self.steps} of the steps"
        return f"{self.network}, {self.labels} labels{steps}"

    @property
    def facts(self) -> dict[str, str]:
        """What a page filters by."""
        return {"data": self.data, "detector": self.detector, "labels": self.labels, "steps": self.steps}


@dataclass(frozen=True)
class Condition:
    """The tested runs of an arm in one place."""

    arm: str
    color: int
    """Place of the arm among the colors."""
    place: Place
    num_labels: float
    """Labeled cases, the mean over runs: folds differ by one or two."""
    is_primary: bool
    """Whether it is at the budgets that the verdicts are about."""
    runs: tuple[Run, ...]
    estimate: Estimate
    """Primary metric: mean over seeds, with its interval over seeds and patients; of one seed over patients."""
    seeds: tuple[int, ...]
    """Those that have every fold."""

    @property
    def facts(self) -> dict[str, str]:
        """What a page filters by."""
        return {"arm": self.arm, **self.place.facts}


def find_conditions(
    runs: Sequence[Run],
    arms: Mapping[Run, str],
    colors: Mapping[Run, int],
    declaration: Declaration,
    scorer: Scorer,
) -> list[Condition]:
    """Return the conditions of the tested runs, by place and then by arm.

    Args:
        runs: of fine-tuning.
        arms: what the arm of each is called; the name of its detector is taken out.
        colors: place of each run's arm among the colors.
        declaration: metric and budget of the verdicts.
        scorer: of the runs, by this metric among others.
    """
    tested = [run for run in runs if run.is_tested]
    detectors = {run: detector_of(run) for run in tested}
    is_said = len(set(detectors.values())) > 1
    groups: dict[tuple[Place, str], list[Run]] = {}
    for run in tested:
        place = place_of(run, is_said)
        groups.setdefault((place, base_arm(arms[run], detectors[run])), []).append(run)
    full: dict[str, int] = {}
    for run in tested:
        full[run.setting[0]] = max(run.setting[1], full.get(run.setting[0], 0))
    order = {
        place: (place.network, _mean([run.setting[1] for run in members]), float(place.steps))
        for (place, _), members in groups.items()
    }
    found = []
    for (place, arm), members in groups.items():
        design = members[0].design
        is_primary = (
            design["labels"] == declaration.labels and place.steps == WHOLE
            if design is not None
            else any(run.setting[1] == full[place.data] for run in members)
        )
        num_labels = _mean([run.setting[1] for run in members])
        estimate = _estimate(members, declaration.metric, scorer)
        seeds = tuple(sorted(seed or 0 for seed in _complete_seeds(members)))
        found.append(Condition(arm, colors[members[0]], place, num_labels, is_primary, tuple(members), estimate, seeds))
    return sorted(found, key=lambda one: (order[one.place], one.color, one.arm))


def place_of(run: Run, has_detectors: bool) -> Place:
    """Return where a run is compared with others.

    Args:
        run: of fine-tuning.
        has_detectors: whether there are several detectors, which are then told apart.
    """
    return Place(run.setting[0], detector_of(run) if has_detectors else "", labels_of(run), steps_of(run))


def detector_of(run: Run) -> str:
    """Return the name of a run's detector, in the words of its study where it is of one."""
    named = (run.design or {}).get("detector")
    return named or run.metadata.detector or "detector"


def base_arm(label: str, detector: str) -> str:
    """Return an arm's label without the name of the detector, which is said beside it."""
    return ", ".join(word for word in label.split(", ") if word != detector) or label


def labels_of(run: Run) -> str:
    """Return the budget of labels of a run in words, the same for all folds."""
    if run.design is not None:
        return run.design["labels"]
    if run.metadata.fold is None:
        return str(run.setting[1])
    return "all" if run.metadata.label_fraction in (None, 1) else run.asked_labels or str(run.setting[1])


def steps_of(run: Run) -> str:
    """Return the share of the steps that a study gives to every arm, in words."""
    return (run.design or {}).get("steps", WHOLE)


def range_of(values: Sequence[float | None]) -> Estimate:
    """Return the mean of what several runs reach, and the lowest and highest in the place of an interval."""
    known = [float(value) for value in values if value is not None and is_finite(value)]
    if not known:
        return Estimate(None)
    return Estimate(_mean(known), *((min(known), max(known)) if len(known) > 1 else (None, None)))


def _estimate(runs: Sequence[Run], metric: NamedMetric, scorer: Scorer) -> Estimate:
    if len(runs) == 1 and metric.key in runs[0].metrics:
        return runs[0].estimate(str(metric.key))
    by_seed = _complete_seeds(runs)
    cases = {case for run in next(iter(by_seed.values())) for case in run.tested_cases}
    try:
        if any({case for run in members for case in run.tested_cases} != cases for members in by_seed.values()):
            raise UserError("seeds have other scans")
        patients = scorer.patients([run for members in by_seed.values() for run in members])
        scored = [scorer.scores(members, patients)[metric.name] for members in by_seed.values()]
        if len(scored) == 1:
            return Estimate(scored[0].value, *scored[0].interval())
        groups: dict[int, list[LeftOut]] = {}
        like = alike_in_encoder({number: [members] for number, members in enumerate(by_seed.values())})
        for number, one in enumerate(scored):
            groups.setdefault(like[number], []).append(one)
        values = np.array([np.mean([one.value for one in group]) for group in groups.values()])
        without = np.stack([np.mean([one.without for one in group], axis=0) for group in groups.values()])
    except (UserError, ValueError):  # what cannot be read or pooled is said where arms are compared
        return Estimate(range_of([run.metrics.get(metric.key or "") for run in runs]).value)
    pseudo = pseudo_values(values, without)
    if are_at_limit(pseudo, pseudo):  # seeds that all find nothing: [0, 0] would know more than one run, [0, 0.265]
        return Estimate(float(values.mean()), *scored[0].interval())
    low, high = effect_of("", pseudo).interval(CONFIDENCE)
    return Estimate(float(values.mean()), max(low, 0.0), min(high, 1.0))


def _complete_seeds(runs: Sequence[Run]) -> dict[int | None, list[Run]]:
    """Return the runs by seed, only those seeds that have every fold; all seeds where none has."""
    folds = {run.metadata.fold for run in runs}
    by_seed: dict[int | None, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.metadata.seed, []).append(run)
    complete = {seed: one for seed, one in by_seed.items() if {run.metadata.fold for run in one} == folds}
    return complete or by_seed


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
