"""What several budgets, data sets and arms say together: areas, efficiency, pooled effects, rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medpretrain3d.lines import counted
from medpretrain3d.statistics import (
    MIN_DATA_SETS,
    ArmScores,
    Verdict,
    arm_effect,
    judge,
    pool,
    ranking_stability,
)
from medpretrain3d.statistics.effect import Effect
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.data_sets import data_set_of, left_out, why_not_pooled
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.differences import Difference, after_holm, signed_estimate
from medpretrain3d.study.efficiency import Efficiency, network_of
from medpretrain3d.study.paired_scores import Scorer, paired_scores


def overview(
    differences: Sequence[Difference], worth: Sequence[Efficiency], declaration: Declaration, scorer: Scorer
) -> list[str]:
    """Return a line per arm over data sets and over budgets, and one per ranking.

    Args:
        differences: of the arms from the baseline.
        worth: of their budgets.
        declaration: metric and delta.
        scorer: of the runs, by this metric among others.
    """
    metric = declaration.metric.name
    return [
        *_over_data_sets(differences, declaration, scorer),
        *_over_budgets(worth, metric),
        *_rankings(differences, metric),
    ]


def _over_data_sets(differences: Sequence[Difference], declaration: Declaration, scorer: Scorer) -> Iterator[str]:
    """Pool the effects at the full budget of each arm and detector, one a data set, judged as one family."""
    metric = declaration.metric.name
    networks: dict[tuple[str, ...], dict[str, list[Difference]]] = {}
    baselines: dict[tuple[str, ...], str] = {}
    for one in differences:
        if one.is_primary:
            networks.setdefault(network_of(one), {}).setdefault(data_set_of(one.runs[0]), []).append(one)
            baselines[network_of(one)] = one.baseline_scores.name
    pooled, without = {}, {}
    for key, data_sets in networks.items():
        if len(data_sets) < MIN_DATA_SETS:
            continue
        why = why_not_pooled([[run for one in parts for run in one.runs] for parts in data_sets.values()], scorer)
        effects = [_effect_of(parts, metric, scorer) for parts in data_sets.values()]
        known = [one for one in effects if one is not None]
        if len(known) < len(effects):
            why = why or "one of them has parts that are of other scans or seeds"
        if why:
            yield f"{key[0]}: not pooled over {len(data_sets)} data sets: {why}."
        else:
            pooled[key] = pool(known)
            names = [parts[0].setting[0] for parts in data_sets.values()]
            missing = left_out(names, known)
            without[key] = f"; {missing}" if missing else ""
    # An arm that is on all data sets before the others is not easier to tell than at the end.
    effects_over_all = [over_all.effect for over_all in pooled.values()]
    judged = judge(effects_over_all, declaration.delta, num_declared=declaration.num_pooled)
    for (key, over_all), judgement in zip(pooled.items(), judged, strict=True):
        low, high = over_all.prediction_interval(0.95)
        yield (
            f"{key[0]}, over {over_all.effect.num_data_sets} data sets: "
            f"{_said(judgement, metric, baselines[key])}; SD between them {over_all.between_sd:.3f}, "
            f"on a new one [{low:+.3f}, {high:+.3f}] (approximate){without[key]}."
        )


def _effect_of(parts: Sequence[Difference], metric: str, scorer: Scorer) -> Effect | None:
    """Return the effect on one data set: of folds on the same scans that of their mean; None of other parts."""
    first = parts[0]
    if len(parts) == 1:
        return first.judged.effect
    pairs = [pair for one in parts for pair in zip(one.runs, one.baselines, strict=True)]
    scored, _ = paired_scores((first.arm, first.baseline_scores.name), pairs, scorer)
    return None if scored is None else arm_effect(scored.arm[metric], scored.other[metric])


def _over_budgets(found: Sequence[Efficiency], metric: str) -> Iterator[str]:
    """Return a line per arm and kind of budget, in words."""
    for one in found:
        unit = "labels" if one.kind == "labels" else "of the steps"
        span = f"{one.budgets[0]:g} to {one.budgets[-1]:g} {unit}"
        of = "budget" if one.kind == "labels" else "steps"
        parts = []
        if one.area is not None:
            words = _said(one.area, metric, one.baseline)
            parts.append(f"area under {metric} over log {one.kind} ({span}, exploratory): {words}")
            parts += [f"at {at:g} {unit} it {needed.of(of)}" for at, needed in one.needs]
        else:
            parts.append(f"{metric} over log {one.kind} ({span}, exploratory)")
        if one.reached is not None:
            whole = "all of them" if one.kind == "steps" else f"{one.budgets[-1]:g} labels"
            parts.append(f"for what {one.baseline} reaches with {whole} it {one.reached.of(of)}")
        where = one.place if one.kind == "labels" else f"{one.place}, {one.labels} labels"
        yield f"{one.name}, {where}, {'; '.join(parts)}."


def _rankings(differences: Sequence[Difference], metric: str) -> Iterator[str]:
    """Rank arms that share seeds and scans with each other, at the full budget."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for one in differences:
        if one.is_primary and one.num_cases > 1:
            baselines = tuple(sorted(run.name for run in one.baselines))
            groups.setdefault((*one.setting, baselines, one.seeds, one.scores.scans, one.scores.patient), []).append(
                one
            )
    for members in groups.values():
        if len(members) < 2:
            continue
        arms: list[ArmScores] = [members[0].baseline_scores, *(one.scores for one in members)]
        labels = counted(members[0].setting[1], "labelled case")
        where, units = members[0].place, "scans" if arms[0].patient is None else "patients"
        pseudo = np.stack([one.pseudo for one in arms])
        if not np.isfinite(pseudo).all():
            yield (
                f"{where}, {labels}: arms are not ranked by {metric}, which does not exist without "
                f"one of the {units} (nan: no object)."
            )
            continue
        ranking = ranking_stability([one.name for one in arms], pseudo)
        places = ", ".join(
            f"{name} {mean:.3f} (first in {share:.0%})"
            for name, mean, share in zip(ranking.names, ranking.means, ranking.shares_first, strict=True)
        )
        which = (
            f"seeds and {units}" if ranking.num_seeds > 1 else f"{units} of one run each, which say nothing of methods"
        )
        yield (
            f"{where}, {labels}, ranking by {metric} when {which} are "
            f"drawn anew: {places}; Kendall's tau {ranking.kendall_tau:.2f}."
        )


def _said(one: Judgement, metric: str, baseline: str) -> str:
    """Return a judgement against the baseline in words."""
    words = {
        Verdict.BETTER: f"better than {baseline}",
        Verdict.WORSE: f"worse than {baseline}",
        Verdict.EQUIVALENT: f"equivalent to {baseline}",
    }.get(one.verdict, str(one.verdict))
    p_value = "" if one.verdict is Verdict.NONE else f", {after_holm(one)}"
    reason = f" ({one.reason})" if one.reason else ""
    return f"{words}{reason}, {metric} {signed_estimate(one)}{p_value}"
