"""What budgets of labels and of steps are worth: areas under a metric, and how much of a budget an arm needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medpretrain3d.evaluation.named_metrics import NamedMetric
from medpretrain3d.statistics import area_scores, arm_effect, efficiency_ratio, judge, reaching_ratio
from medpretrain3d.statistics.budget_curves import EfficiencyRatio
from medpretrain3d.statistics.effect import Effect
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.conditions import WHOLE, base_arm, detector_of, labels_of, steps_of
from medpretrain3d.study.differences import Difference, signed_estimate
from medpretrain3d.study.encoders import seeds_of_encoders
from medpretrain3d.study.table import Cell, Estimate, Table

Kind = Literal["labels", "steps"]


@dataclass(frozen=True)
class Efficiency:
    """An arm against the baseline over budgets of one kind, on one data set with one detector."""

    name: str
    """Of the arm, with the words that tell its network apart."""
    differences: tuple[Difference, ...]
    """One a budget, rising."""
    kind: Kind
    budgets: tuple[float, ...]
    """Labeled cases, or shares of the steps."""
    seeds: tuple[int, ...]
    """Those that have all budgets, of both arms."""
    area: Judgement | None
    """Difference of the areas; None where the baseline was not run with every budget."""
    needs: tuple[tuple[float, EfficiencyRatio], ...]
    """For what the arm reaches with a budget below the largest: that budget against the one the baseline needs."""
    reached: EfficiencyRatio | None
    """For what the baseline reaches with all of it; None where the arm has one budget alone."""

    @property
    def arm(self) -> str:
        """Name of the arm alone."""
        return base_arm(self.name, self.detector)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.differences[0].setting[0]

    @property
    def place(self) -> str:
        """Data set in words, with the fold where it is of one among others."""
        return self.differences[0].place

    @property
    def detector(self) -> str:
        """Name of the detector."""
        return detector_of(self.differences[0].runs[0])

    @property
    def labels(self) -> str:
        """The budget of labels of a curve over steps."""
        return labels_of(self.differences[0].runs[0])

    @property
    def baseline(self) -> str:
        """Name of the baseline."""
        return self.differences[0].baseline_scores.name


def efficiencies(differences: Sequence[Difference]) -> tuple[list[Efficiency], list[str]]:
    """Return what each arm is worth over labels and over steps, and a sentence for each of which that is not known.

    Areas over one kind of budget are one family (Holm).
    """
    said: list[str] = []
    found = [*_over_labels(differences, said), *_over_steps(differences, said)]
    result: list[Efficiency] = []
    for kind in ("labels", "steps"):
        members = [(one, effect) for one, effect in found if one.kind == kind]
        judged = iter(judge([effect for _, effect in members if effect is not None]))
        result += [one if effect is None else replace(one, area=next(judged)) for one, effect in members]
    return result, said


def efficiency_table(found: Sequence[Efficiency], metric: NamedMetric) -> Table:
    """Return a row per arm, data set, detector and kind of budget.

    The share is that of the budget with which the arm reaches what the baseline reaches with all of it.
    """
    has_detectors = len({one.detector for one in found}) > 1
    before = ["arm", "data set", *(["detector"] if has_detectors else []), "over", "budgets"]
    header = [*before, "seeds", f"area of {metric}", "on the area", "share needed", "seeds that reach it"]
    table = Table(header, num_text_columns=len(before))
    for one in found:
        budgets = ", ".join(f"{budget:g}" for budget in one.budgets)
        numbers = one.differences[0].scores.of_seeds(one.seeds).num_averaged
        seeds = seeds_of_encoders(len(one.seeds) if numbers is None else sum(numbers), len(one.seeds))
        over = "labels" if one.kind == "labels" else f"steps, {one.labels} labels"
        where = [one.arm, one.place, *([one.detector] if has_detectors else []), over]
        area: list[Cell] = (
            [Estimate(None), "-"] if one.area is None else [signed_estimate(one.area), str(one.area.verdict)]
        )
        facts = {"arm": one.arm, "data": one.data, "detector": one.detector}
        facts |= {"labels": one.labels} if one.kind == "steps" else {}
        table.add([*where, budgets, seeds, *area, *_share_cells(one.reached)], facts)
    return table


def _share_cells(reached: EfficiencyRatio | None) -> tuple[Estimate, str]:
    if reached is None:
        return Estimate(None), "-"
    seeds = f"of {reached.num_seeds}"
    words = [f"{reached.num_seeds - reached.num_below} {seeds}"]
    words += [f"{reached.num_beyond} with the smallest budget"] if reached.num_beyond else []
    words += [reached.bound] if reached.is_known and reached.bound else []
    if not reached.is_known:
        return Estimate(None), f"{', '.join(words)}; not known"
    low, high = (1 / end if end > 0 else float("inf") for end in reversed(reached.interval))
    return Estimate(reached.share, low, high), ", ".join(words)


def network_of(one: Difference) -> tuple[str, ...]:
    """Return arm, detector and backbone: what is compared over data sets or budgets."""
    own = one.runs[0].metadata
    return one.arm, str(own.detector), str(own.backbone)


def _over_labels(differences: Sequence[Difference], said: list[str]) -> Iterator[tuple[Efficiency, Effect | None]]:
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for one in differences:
        if steps_of(one.runs[0]) == WHOLE:
            groups.setdefault((*network_of(one), one.place), []).append(one)
    for (arm, *_), members in groups.items():
        yield from _compared(arm, "labels", [(float(one.setting[1]), one) for one in members], said)


def _over_steps(differences: Sequence[Difference], said: list[str]) -> Iterator[tuple[Efficiency, Effect | None]]:
    groups: dict[tuple[str, ...], list[tuple[float, Difference]]] = {}
    for one in differences:
        if (budget := one.runs[0].step_budget) is not None:
            # `mae_half, fcos` is a point of `mae, fcos`.
            name = ", ".join([budget.arm, *one.arm.split(", ")[1:]])
            key = (name, *network_of(one)[1:], one.place, labels_of(one.runs[0]))
            groups.setdefault(key, []).append((budget.share, one))
    for (name, *_), members in groups.items():
        yield from _compared(name, "steps", members, said)


def _compared(
    name: str, kind: Kind, members: list[tuple[float, Difference]], said: list[str]
) -> Iterator[tuple[Efficiency, Effect | None]]:
    """Compare over the budgets of one arm.

    Yields nothing where there is one budget, where budgets share no scans or seeds, or, which is said, where the metric
    does not exist at one of them or is the same number everywhere.
    """
    members.sort(key=lambda one: one[0])
    budgets, ordered = tuple(budget for budget, _ in members), tuple(one for _, one in members)
    is_alike = len({(one.scores.scans, one.scores.patient) for one in ordered}) == 1
    seeds = tuple(seed for seed in ordered[0].seeds if all(seed in one.seeds for one in ordered))
    if len(ordered) < 2 or len(set(budgets)) < len(budgets) or budgets[0] <= 0 or not is_alike or not seeds:
        return
    arm = np.stack([one.scores.of_seeds(seeds).values for one in ordered], axis=-1)
    baselines = np.stack([one.baseline_scores.of_seeds(seeds).values for one in ordered], axis=-1)
    if not (np.isfinite(arm).all() and np.isfinite(baselines).all()):
        said.append(
            f"{name}, {ordered[0].place}: nothing is said of its {kind}, since the metric does not exist at one "
            "of the budgets (nan: no object, or points and a metric of overlap)"
        )
        return
    if np.ptp([arm, baselines]) == 0:
        said.append(
            f"{name}, {ordered[0].place}: nothing is said of its {kind}, since it and the baseline reach "
            f"{arm[0, 0]:.3f} with every budget"
        )
        return
    is_whole = [kind == "labels" or _has_own_baseline(one) for one in ordered]
    final = _final(kind, ordered)
    reached = None
    if final is not None:
        of = budgets[-1] if kind == "labels" else 1.0
        reached = reaching_ratio(budgets, arm, final.baseline_scores.of_seeds(seeds).values, of)
    effect: Effect | None = None
    needs: tuple[tuple[float, EfficiencyRatio], ...] = ()
    if all(is_whole):
        areas = [
            area_scores(budgets, [getattr(one, side) for one in ordered]) for side in ("scores", "baseline_scores")
        ]
        effect = arm_effect(*areas)
        needs = tuple((at, efficiency_ratio(budgets, baselines, arm, at)) for at in budgets[:-1])
    yield Efficiency(name, ordered, kind, budgets, seeds, None, needs, reached), effect


def _has_own_baseline(one: Difference) -> bool:
    """Return whether the baseline made as many steps as the arm."""
    own, other = one.runs[0].step_budget, one.baselines[0].step_budget
    return own is not None and other is not None and own.share == other.share


def _final(kind: Kind, ordered: Sequence[Difference]) -> Difference | None:
    """Return the difference in which the baseline has its largest budget; of steps all of them."""
    if kind == "labels":
        return ordered[-1]
    whole = [one for one in ordered if (budget := one.baselines[0].step_budget) is not None and budget.is_whole]
    return whole[-1] if whole else None
