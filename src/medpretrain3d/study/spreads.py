"""How the difference of two arms spreads between seeds and between patients, as runs have it that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.statistics import MIN_SEEDS, pilot_components
from medpretrain3d.statistics.arms import difference_pseudo_values
from medpretrain3d.statistics.two_way import VarianceComponents
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.differences import Difference, paired_differences
from medpretrain3d.study.identity import arm_labels, identify
from medpretrain3d.study.run import Run

ASSUMED = VarianceComponents(seed=0.015**2, scan=0.15**2, interaction=0.0)
"""Of the difference of two arms in mAP, where nothing is there: as in a study of real CT."""


@dataclass(frozen=True)
class Spread:
    """Variance components of the difference of two arms, and what they rest on, in words."""

    components: VarianceComponents
    source: str

    def __str__(self) -> str:
        own = self.components
        parts = [f"seeds spread by {math.sqrt(own.seed):.3g}", f"scans by {math.sqrt(own.scan):.3g}"]
        parts += [f"a seed on a scan by {math.sqrt(own.interaction):.3g}"] if own.interaction > 1e-9 else []
        return f"{', '.join(parts)} ({self.source})"


def spread_of(runs: Sequence[Run], data: str, declaration: Declaration) -> Spread:
    """Return the spread on a data set.

    Of pairs of arms with two seeds or more, the mean of their components; of pairs with one seed the scans alone, in
    which the spread of a seed on a scan is contained; otherwise what is assumed. Pairs that show no spread, such as of
    runs that found nothing, or whose metric does not exist, are left out, and that is said.

    Args:
        runs: of the study, or pilots.
        data: name of the data set, as the runs have it.
        declaration: of the metric.
    """
    finetuning = [run for run in runs if run.metadata.stage == "finetune" and data in _names(run)]
    pretraining = [run for run in runs if run.metadata.stage == "pretrain"]
    identities = identify(finetuning, pretraining)
    found, _ = paired_differences(finetuning, identities, arm_labels(finetuning, identities), declaration)
    measured = [(one, _components(one)) for one in found if one.num_cases > 1]
    known = [(one, components) for one, components in measured if components.is_known]
    without = [one for one, components in measured if not components.is_known]
    left_out = f"; {_pairs(without)} without any spread left out" if without else ""
    several = [pair for pair in known if len(pair[0].seeds) >= MIN_SEEDS]
    if several:
        pairs = [one for one, _ in several]
        mean = VarianceComponents(*(float(np.mean([getattr(one, name) for _, one in several])) for name in _PARTS))
        seeds = sum(len(one.seeds) for one in pairs)
        return Spread(mean, f"measured: {_pairs(pairs)}, {seeds} seeds in all, {_where(pairs)}{left_out}")
    if known:
        pairs = [one for one, _ in known]
        parts_of_one = VarianceComponents(ASSUMED.seed, float(np.mean([one.scan for _, one in known])), 0.0)
        return Spread(
            parts_of_one, f"scans measured: {_pairs(pairs)} of one seed, {_where(pairs)}; seeds assumed{left_out}"
        )
    return Spread(ASSUMED, f"assumed, not measured here{left_out}")


_PARTS = ("seed", "scan", "interaction")


def _components(one: Difference) -> VarianceComponents:
    """Return the components of scans that a pair of arms shows; of one seed those of the scans alone."""
    if len(one.seeds) >= MIN_SEEDS:
        return _per_patient(pilot_components(one.scores, one.baseline_scores), one)
    of_scans = float(difference_pseudo_values(one.scores, one.baseline_scores)[0].var(ddof=1))
    return _per_patient(VarianceComponents(0.0, of_scans, 0.0), one)


def _per_patient(components: VarianceComponents, one: Difference) -> VarianceComponents:
    """Return the components of patients where those given are of groups of patients, as beyond 200 of them.

    The mean of K / G patients varies less than one by that factor.
    """
    size = one.scores.num_patients / one.scores.without.shape[-1]
    return VarianceComponents(components.seed, components.scan * size, components.interaction * size)


def _names(run: Run) -> set[str]:
    """Return what the data set of a run is called: in its study, and by its store."""
    return {str(run.metadata.dataset), Path(str(run.metadata.dataset)).stem, *((run.design or {}).get("data", ""),)}


def _pairs(found: Sequence[Difference]) -> str:
    return "1 pair of arms" if len(found) == 1 else f"{len(found)} pairs of arms"


def _where(found: Sequence[Difference]) -> str:
    groups = dict.fromkeys(run.name.partition("/")[0] for one in found for run in one.runs)
    return f"runs of {', '.join(groups)}"
