"""One answer over several data sets: random effects with the interval of Hartung and Knapp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.statistics.effect import MIN_DATA_SETS, Effect
from medpretrain3d.statistics.student import critical_value


@dataclass(frozen=True)
class PooledEffect:
    """Mean effect over data sets, the spread between them, and where the effect on a new one is expected."""

    effect: Effect
    between_sd: float
    """tau, of DerSimonian and Laird."""

    def prediction_interval(self, confidence: float) -> tuple[float, float]:
        """Return mu +- t(k - 2) sqrt(tau^2 + SE^2); approximate: 95 % cover 86 to 91 % in simulation."""
        if not self.effect.has_interval:
            return math.nan, math.nan
        quantile = float(critical_value(1 - confidence, self.effect.num_data_sets - 2))
        half = quantile * math.hypot(self.between_sd, self.effect.standard_error)
        return self.effect.difference - half, self.effect.difference + half


def pool(effects: Sequence[Effect]) -> PooledEffect:
    """Pool the effects of one arm on k data sets (Hartung and Knapp, 2001; tau^2 of DerSimonian and Laird, 1986).

    With fewer than three data sets the mean has no interval: no claim about others. A data set whose effect has no
    standard error (fewer than 10 patients) is left out; its number is seen in `num_data_sets`.

    Raises:
        ValueError: effects of several arms, or none.
    """
    names = {one.name for one in effects}
    if len(names) != 1:
        raise ValueError(f"pooling effects of {len(names)} arms ({', '.join(sorted(names))}); give those of one")
    known = [one for one in effects if one.has_interval]
    difference = np.array([one.difference for one in known])
    variance = np.array([one.standard_error**2 for one in known])
    number = len(known)
    num_seeds = min((one.num_seeds for one in known), default=0)
    num_scans, num_patients = (sum(getattr(one, what) for one in known) for what in ("num_scans", "num_patients"))
    name = names.pop()
    shares = any(one.with_seeds is not None for one in known)
    with_seeds = min(one.num_finetuning_seeds for one in known) if shares else None
    of_patients = num_patients if num_patients < num_scans else None
    counts = {"num_seeds": num_seeds, "num_scans": num_scans, "num_data_sets": number}
    if number < MIN_DATA_SETS:
        mean = float(difference.mean()) if number else math.nan
        few = Effect(name, mean, math.nan, math.nan, **counts, of_patients=of_patients, with_seeds=with_seeds)
        return PooledEffect(few, math.nan)
    variance = np.maximum(variance, 1e-12)  # weights stay finite where all runs agree
    weight = 1 / variance
    fixed = np.average(difference, weights=weight)
    excess = float((weight * (difference - fixed) ** 2).sum()) - (number - 1)
    between = max(0.0, excess / float(weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1 / (variance + between)
    mean = float(np.average(difference, weights=weight))
    error = math.sqrt(float((weight * (difference - mean) ** 2).sum() / (number - 1) / weight.sum()))
    effect = Effect(name, mean, error, number - 1.0, **counts, of_patients=of_patients, with_seeds=with_seeds)
    return PooledEffect(effect, math.sqrt(between))
