"""What several budgets, data sets and arms say together: areas, label efficiency, pooled effects, rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medpretrain3d.statistics import (
    MIN_DATA_SETS,
    ArmScores,
    Verdict,
    area_scores,
    arm_effect,
    efficiency_ratio,
    judge,
    pool,
    ranking_stability,
)
from medpretrain3d.statistics.effect import Effect
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.differences import Difference
from medpretrain3d.study.table import Estimate


def overview(differences: Sequence[Difference], declaration: Declaration) -> list[str]:
    """Return a line per arm over data sets and over budgets, and one per ranking."""
    metric = declaration.metric.name
    return [
        *_over_data_sets(differences, metric, declaration.delta),
        *_over_budgets(differences, metric),
        *_rankings(differences, metric),
    ]


def _over_data_sets(differences: Sequence[Difference], metric: str, delta: float | None) -> Iterator[str]:
    """Pool the effects at the full budget of each arm and detector, judged as one family."""
    effects: dict[tuple[str, ...], list[Effect]] = {}
    baselines: dict[tuple[str, ...], str] = {}
    for one in differences:
        if one.is_primary:
            effects.setdefault(_network(one), []).append(one.judged.effect)
            baselines[_network(one)] = one.baseline_scores.name
    pooled = {key: pool(members) for key, members in effects.items() if len(members) >= MIN_DATA_SETS}
    judged = judge([over_all.effect for over_all in pooled.values()], delta)
    for (key, over_all), judgement in zip(pooled.items(), judged, strict=True):
        low, high = over_all.prediction_interval(0.95)
        yield (
            f"{key[0]}, over {over_all.effect.num_data_sets} data sets: "
            f"{_said(judgement, metric, baselines[key])}; SD between them {over_all.between_sd:.3f}, "
            f"on a new one [{low:+.3f}, {high:+.3f}] (approximate)."
        )


def _over_budgets(differences: Sequence[Difference], metric: str) -> Iterator[str]:
    """Compare areas under the metric over log labels, and say how much less labels an arm needs; exploratory."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for one in differences:
        groups.setdefault((*_network(one), one.setting[0]), []).append(one)
    found: list[tuple[str, list[float], list[Difference], Effect]] = []
    for key, members in groups.items():
        members.sort(key=_labels)
        budgets = [_labels(one) for one in members]
        same_scans = len({one.scores.scans for one in members}) == 1
        if (
            len(members) > 1
            and len(set(budgets)) == len(budgets)
            and min(budgets) > 0
            and same_scans
            and _shared(members)
        ):
            arm, baseline = ([getattr(one, side) for one in members] for side in ("scores", "baseline_scores"))
            effect = arm_effect(area_scores(budgets, arm), area_scores(budgets, baseline))
            found.append((f"{key[0]}, {key[-1]}", budgets, members, effect))
    for (name, budgets, members, _), judged in zip(found, judge([one[3] for one in found]), strict=True):
        seeds = _shared(members)
        curves = [
            np.stack([getattr(one, side).of_seeds(seeds).values for one in members], axis=-1)
            for side in ("baseline_scores", "scores")
        ]
        needs = "; ".join(
            f"at {at:g} labels it {efficiency_ratio(budgets, curves[0], curves[1], at)}" for at in budgets[:-1]
        )
        span = f"{budgets[0]:g} to {budgets[-1]:g} labels"
        said = _said(judged, metric, members[0].baseline_scores.name)
        yield f"{name}, area under {metric} over log labels ({span}, exploratory): {said}; {needs}."


def _rankings(differences: Sequence[Difference], metric: str) -> Iterator[str]:
    """Rank arms that share seeds and scans with each other, at the full budget."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for one in differences:
        if one.is_primary and one.num_cases > 1:
            baselines = tuple(sorted(run.name for run in one.baselines))
            groups.setdefault((*one.setting, baselines, one.seeds, one.scores.scans), []).append(one)
    for members in groups.values():
        if len(members) < 2:
            continue
        arms: list[ArmScores] = [members[0].baseline_scores, *(one.scores for one in members)]
        ranking = ranking_stability([one.name for one in arms], np.stack([one.pseudo for one in arms]))
        places = ", ".join(
            f"{name} {mean:.3f} (first in {share:.0%})"
            for name, mean, share in zip(ranking.names, ranking.means, ranking.shares_first, strict=True)
        )
        which = "seeds and scans" if ranking.num_seeds > 1 else "scans of one run each, which say nothing of methods"
        yield (
            f"{members[0].setting[0]}, {members[0].setting[1]} labelled cases, ranking by {metric} when {which} are "
            f"drawn anew: {places}; Kendall's tau {ranking.kendall_tau:.2f}."
        )


def _network(one: Difference) -> tuple[str, ...]:
    own = one.runs[0].metadata
    return one.arm, str(own.detector), str(own.backbone)


def _labels(one: Difference) -> float:
    return float(one.setting[1])


def _shared(members: Sequence[Difference]) -> list[int]:
    return [seed for seed in members[0].seeds if all(seed in one.seeds for one in members)]


def _said(one: Judgement, metric: str, baseline: str) -> str:
    words = {
        Verdict.BETTER: f"better than {baseline}",
        Verdict.WORSE: f"worse than {baseline}",
        Verdict.EQUIVALENT: f"equivalent to {baseline}",
    }.get(one.verdict, str(one.verdict))
    p_value = "" if one.verdict is Verdict.NONE else f", p {one.corrected_p_value:.4f} after Holm"
    reason = f" ({one.reason})" if one.reason else ""
    return f"{words}{reason}, {metric} {Estimate(one.effect.difference, *one.interval, is_signed=True)}{p_value}"
