"""The metric of several arms over the same seeds and scans, and the effect of each against the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medpretrain3d.statistics.budget_curves import area_over_log
from medpretrain3d.statistics.effect import Effect
from medpretrain3d.statistics.pseudo_values import ROUNDING, pseudo_values
from medpretrain3d.statistics.two_way import VarianceComponents, effect_of, variance_components


@dataclass(frozen=True)
class ArmScores:
    """One metric of one arm on one data set: S seeds, each tested on the same N scans.

    A seed fixes which cases are labelled, the order of the data and the initialization, the same for all arms.

    Raises:
        ValueError: the shapes do not fit, or a seed is there twice.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.statistics import ArmScores, arm_effect, judge
        >>> scans = tuple(map(str, range(12)))
        >>> without = np.random.default_rng(0).normal(0.4, 0.001, (3, 12))
        >>> scratch = ArmScores("scratch", (0, 1, 2), np.full(3, 0.4), without, scans)
        >>> mae = ArmScores("mae", (0, 1, 2), np.array([0.5, 0.52, 0.51]), without + 0.1, scans)
        >>> judge([arm_effect(mae, scratch)])[0].verdict
        <Verdict.BETTER: 'better'>
    """

    name: str
    seeds: tuple[int, ...]
    values: np.ndarray
    """(S,), on all scans."""
    without: np.ndarray
    """(S, G), without each patient or group of patients, see `leave_one_out_weights`."""
    scans: tuple[str, ...]
    """(N,) their names."""
    patient: tuple[int, ...] | None = None
    """(N,) number of each scan's patient, from 0; None where each is of a patient of its own."""
    num_averaged: tuple[int, ...] | None = None
    """(S,) how many seeds of fine-tuning each of these is the mean of, see `averaged`; None where each is one."""

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.seeds),) or self.without.shape[:-1] != self.values.shape:
            raise ValueError(
                f"arm {self.name}: {len(self.seeds)} seeds, values {self.values.shape}, without {self.without.shape}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"arm {self.name}: a seed is there twice ({self.seeds}); runs of other settings are arms")

    @property
    def num_scans(self) -> int:
        """Scans that every seed was tested on."""
        return len(self.scans)

    @property
    def num_patients(self) -> int:
        """Patients that these scans are of."""
        return self.num_scans if self.patient is None else len(set(self.patient))

    @property
    def pseudo(self) -> np.ndarray:
        """(S, G) pseudo-values."""
        return pseudo_values(self.values, self.without)

    def of_seeds(self, seeds: Sequence[int]) -> ArmScores:
        """Return the scores of some of the seeds, in their order."""
        rows = [self.seeds.index(one) for one in seeds]
        kept = replace(self, seeds=tuple(seeds), values=self.values[rows], without=self.without[rows])
        if self.num_averaged is None:
            return kept
        return replace(kept, num_averaged=tuple(self.num_averaged[row] for row in rows))

    def averaged(self, like: Mapping[int, int]) -> ArmScores:
        """Return the means of seeds that are no draws of their own, as those that begin from one encoder.

        Args:
            like: of each seed the one under which it is averaged.
        """
        groups: dict[int, list[int]] = {}
        for row, seed in enumerate(self.seeds):
            groups.setdefault(like[seed], []).append(row)
        if len(groups) == len(self.seeds):
            return self
        numbers = tuple(len(rows) for rows in groups.values())
        values, without = (
            np.stack([part[rows].mean(axis=0) for rows in groups.values()]) for part in (self.values, self.without)
        )
        return replace(self, seeds=tuple(groups), values=values, without=without, num_averaged=numbers)


def difference_pseudo_values(arm: ArmScores, baseline: ArmScores) -> np.ndarray:
    """Return the pseudo-values of arm - baseline of each seed that both have, (S, G).

    Raises:
        ValueError: they share no seed, or were tested on other scans.
    """
    shared = [one for one in arm.seeds if one in baseline.seeds]
    if not shared:
        raise ValueError(f"{arm.name} has the seeds {arm.seeds} and {baseline.name} {baseline.seeds}; none is in both")
    if (arm.scans, arm.patient) != (baseline.scans, baseline.patient):
        raise ValueError(f"{arm.name} and {baseline.name} were tested on other scans; pair runs of the same test set")
    return np.asarray(arm.of_seeds(shared).pseudo - baseline.of_seeds(shared).pseudo)


def are_at_limit(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether pseudo-values of two sides (S, G) are one number, so that nothing shows how they vary.

    Such are two arms that find nothing, or everything. Sides that vary alike, as a file and its copy, are at no limit.
    """
    both = np.concatenate([a.ravel(), b.ravel()])
    return bool(np.ptp(both) <= ROUNDING)


def arm_effect(arm: ArmScores, baseline: ArmScores) -> Effect:
    """Return the mean difference of the seeds that both have; raises as `difference_pseudo_values`."""
    effect = effect_of(arm.name, difference_pseudo_values(arm, baseline))
    shared = [one for one in arm.seeds if one in baseline.seeds]
    own, other = (one.of_seeds(shared) for one in (arm, baseline))
    is_at_limit = are_at_limit(own.pseudo, other.pseudo)
    with_seeds = None if own.num_averaged is None else sum(own.num_averaged)
    of_patients = arm.num_patients if arm.num_patients < arm.num_scans else None
    # Scans and patients, and not groups of them.
    return replace(
        effect, num_scans=arm.num_scans, of_patients=of_patients, is_at_limit=is_at_limit, with_seeds=with_seeds
    )


def pilot_components(arm: ArmScores, baseline: ArmScores) -> VarianceComponents:
    """Return the variance components of the difference of two arms; raises as its parts do."""
    return variance_components(difference_pseudo_values(arm, baseline))


def area_scores(budgets: Sequence[float], scores: Sequence[ArmScores]) -> ArmScores:
    """Return the area under the curve of one arm over log budget as a metric of its own, for the seeds that all have.

    Args:
        budgets: rising.
        scores: of the arm at each budget, on the same scans.

    Raises:
        ValueError: as `area_over_log`, no seed at all budgets, or other scans.
    """
    if any((one.scans, one.patient) != (scores[0].scans, scores[0].patient) for one in scores):
        raise ValueError(f"arm {scores[0].name}: tested on other scans at other budgets; test all on the same")
    seeds = [one for one in scores[0].seeds if all(one in other.seeds for other in scores)]
    if not seeds:
        raise ValueError(f"arm {scores[0].name}: no seed has all budgets; run the missing ones")
    alike = [one.of_seeds(seeds) for one in scores]
    return ArmScores(
        scores[0].name,
        tuple(seeds),
        area_over_log(budgets, np.stack([one.values for one in alike], axis=-1)),
        area_over_log(budgets, np.stack([one.without for one in alike], axis=-1)),
        scores[0].scans,
        scores[0].patient,
        alike[-1].num_averaged,
    )
