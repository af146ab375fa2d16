"""What a design of S seeds and N scans can show, from the spreads of a pilot.

N counts patients: of several scans of one the spread is that of all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from medpretrain3d.statistics.effect import MIN_PATIENTS, MIN_SEEDS
from medpretrain3d.statistics.student import critical_value
from medpretrain3d.statistics.two_way import MeanVariance, VarianceComponents

NUM_DRAWS = 4000
"""Of mean squares: power is then known to 0.005."""
MAX_SEEDS = 100
SCANS_TIMES = (1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Larger test sets that are tried."""


@dataclass(frozen=True)
class Design:
    """A number of seeds and of test scans, and the difference that they show with the power asked for."""

    num_seeds: int
    num_scans: int
    detectable_difference: float
    """Infinite where a design allows no verdict."""


def power(
    difference: float, components: VarianceComponents, num_seeds: int, num_scans: int, alpha: float = 0.05
) -> float:
    """Return the probability that a true difference is found at level alpha, two-sided; 0 where there is no verdict.

    The mean squares of the two-way layout are independent multiples of chi-squares: what the analysis will take for
    its critical difference is drawn from them, as often as `NUM_DRAWS`.

    Raises:
        ValueError: the components are not known, see `VarianceComponents.is_known`.
    """
    if num_seeds < MIN_SEEDS or num_scans < MIN_PATIENTS:
        return 0.0
    return _power(difference, _critical(components, num_seeds, num_scans, alpha), components, num_seeds, num_scans)


def detectable_difference(
    components: VarianceComponents,
    num_seeds: int,
    num_scans: int,
    wanted_power: float = 0.8,
    alpha: float = 0.05,
    num_arms: int = 1,
) -> float:
    """Return the true difference that is found with `wanted_power`; infinite where there is no verdict at all.

    Args:
        components: of the difference of two arms, see `variance_components`.
        num_seeds: at least two.
        num_scans: test scans, of at least ten patients: their number.
        wanted_power: probability to find it.
        alpha: two-sided level of the family.
        num_arms: compared with the baseline; the smallest p has to be below alpha / num_arms (Holm).

    Raises:
        ValueError: as `power`.
    """
    if num_seeds < MIN_SEEDS or num_scans < MIN_PATIENTS:
        return math.inf
    critical = _critical(components, num_seeds, num_scans, alpha / num_arms)

    def missing(difference: float) -> float:
        return _power(difference, critical, components, num_seeds, num_scans) - wanted_power

    top = float(critical.max()) + 10 * math.sqrt(components.of_mean(num_seeds, num_scans))
    from scipy.optimize import brentq  # half a second, and only plans need it

    return float(brentq(missing, 0.0, top, xtol=1e-6))


def designs(
    components: VarianceComponents,
    seeds: Sequence[int],
    scans: Sequence[int],
    wanted_power: float = 0.8,
    alpha: float = 0.05,
    num_arms: int = 1,
) -> list[Design]:
    """Return the detectable difference of every pair of S and N, for the table of a plan."""
    return [
        Design(one, many, detectable_difference(components, one, many, wanted_power, alpha, num_arms))
        for one in seeds
        for many in scans
    ]


def settling_designs(
    components: VarianceComponents,
    num_seeds: int,
    num_scans: int,
    difference: float,
    wanted_power: float = 0.8,
    alpha: float = 0.05,
    num_arms: int = 1,
) -> list[Design]:
    """Return studies larger than one that was inconclusive and show a difference: with more seeds, and with more scans.

    Args:
        components: of the difference of two arms, as that study saw them.
        num_seeds: of that study.
        num_scans: of that study.
        difference: that is to be shown.
        wanted_power: probability to find it.
        alpha: two-sided level of the family.
        num_arms: compared at once, see `detectable_difference`.

    Returns:
        The fewest seeds above S on as many scans, and the fewest scans of `SCANS_TIMES` N with as many seeds; either is
        left out where up to `MAX_SEEDS` seeds or 32 times the scans do not suffice.

    Raises:
        ValueError: as `power`.
    """

    def shows(seeds: int, scans: int) -> Design | None:
        found = detectable_difference(components, seeds, scans, wanted_power, alpha, num_arms)
        return Design(seeds, scans, found) if found <= difference else None

    seeds = max(MIN_SEEDS, num_seeds)
    result = []
    if shows(MAX_SEEDS, num_scans):
        low, high = seeds, MAX_SEEDS  # it falls with the seeds: the first number that suffices lies in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if shows(middle, num_scans) else (middle, high)
        result.append(shows(high, num_scans))
    more = (round(times * num_scans) for times in SCANS_TIMES)
    result.append(next((design for scans in more if (design := shows(seeds, scans))), None))
    return [one for one in result if one is not None]


def _critical(components: VarianceComponents, num_seeds: int, num_scans: int, alpha: float) -> np.ndarray:
    """Return differences that an analysis would need to see, one for each draw of the three mean squares."""
    if not components.is_known:
        raise ValueError(f"{components}: nothing is known of the spread, wanted finite numbers, one of them above 0")
    generator = np.random.default_rng(0)

    def drawn(mean: float, freedom: int) -> np.ndarray:
        return np.asarray(mean * generator.chisquare(freedom, NUM_DRAWS) / freedom)

    of_seeds, of_scans = num_seeds - 1, num_scans - 1
    variance = MeanVariance(
        drawn(components.seed + components.interaction / num_scans, of_seeds) / num_seeds,
        drawn(components.scan + components.interaction / num_seeds, of_scans) / num_scans,
        drawn(components.interaction, of_seeds * of_scans) / (num_seeds * num_scans),
        num_seeds,
        num_scans,
    )
    return np.asarray(critical_value(alpha, variance.degrees_of_freedom) * np.sqrt(variance.total))


def _power(
    difference: float, critical: np.ndarray, components: VarianceComponents, num_seeds: int, num_scans: int
) -> float:
    error = math.sqrt(components.of_mean(num_seeds, num_scans))
    return float((ndtr((difference - critical) / error) + ndtr((-critical - difference) / error)).mean())
