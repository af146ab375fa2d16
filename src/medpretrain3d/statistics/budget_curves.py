"""Curves of a metric over budgets (labels or training steps): one area, and how much less budget an arm needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.lines import counted
from medpretrain3d.statistics.student import critical_value


def area_over_log(budgets: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Return the area under a metric over log n, divided by the width: its mean height.

    Linear in the metric, so the area of pseudo-values is the pseudo-value of the area.

    Args:
        budgets: (B,) rising, above 0.
        values: (..., B).

    Raises:
        ValueError: fewer than two budgets, or budgets that do not rise above 0.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.statistics import area_over_log
        >>> float(area_over_log([1, 2, 4], np.array([0.1, 0.3, 0.3])))
        0.25
    """
    x = _logs(budgets)
    return np.asarray(np.trapezoid(values, x, axis=-1) / (x[-1] - x[0]))


@dataclass(frozen=True)
class EfficiencyRatio:
    """Budget the baseline needs for what the arm reaches at `budget`, divided by `budget`; above 1 is good."""

    budget: float
    value: float
    """Geometric mean over seeds; a bound where seeds are censored; nan where the metric does not exist."""
    interval: tuple[float, float]
    """Over seeds, on the log scale; an end that is not known is 0 or infinite; (nan, nan) with fewer than two seeds."""
    num_seeds: int
    num_beyond: int
    """Seeds in which the baseline's largest budget does not reach the arm: the value is at least this."""
    num_below: int
    """Seeds in which the baseline's smallest budget is already better: the value is at most this."""

    @property
    def share(self) -> float:
        """1 / value: the share of the budget that suffices the arm, as in `needs 0.4 of the labels`."""
        return 1 / self.value

    @property
    def is_known(self) -> bool:
        """Whether it is a value or a bound: the metric exists, and seeds are not cut off at both ends."""
        return not (self.num_beyond and self.num_below) and not math.isnan(self.value)

    @property
    def bound(self) -> str:
        """`at most` or `at least` where the share is a bound, otherwise nothing."""
        return "at most" if self.num_beyond else "at least" if self.num_below else ""

    def of(self, what: str) -> str:
        """Return in words which share of labels or steps suffices."""
        unknown = f"needs a share of the {what} that is not known"
        if math.isnan(self.value):
            return f"{unknown}: the metric does not exist in every seed"
        if not self.is_known:
            above = counted(self.num_beyond, "seed")
            return f"{unknown}: a bound from above in {above} and from below in {self.num_below}"
        low, high = self.interval
        known = not math.isnan(low)
        ends = f" [{1 / high:.2f}, {1 / low if low > 0 else math.inf:.2f}]" if known else ""
        return f"needs {f'{self.bound} ' if self.bound else ''}{self.share:.2f}{ends} of the {what}"

    def __str__(self) -> str:
        return self.of("budget")


def efficiency_ratio(
    budgets: Sequence[float], baseline: np.ndarray, arm: np.ndarray, at: float, confidence: float = 0.95
) -> EfficiencyRatio:
    """Return r(n) = n_baseline(m_arm(n)) / n, both curves made monotone and linear in log n; nothing is extrapolated.

    Where a number of either is not finite, the ratio is not known.

    Args:
        budgets: (B,) rising.
        baseline: (S, B), the metric of each seed.
        arm: (S, B), of the same seeds.
        at: one of the budgets.
        confidence: of the interval.

    Raises:
        ValueError: as `area_over_log`, shapes that differ, or a budget that is none of them.
    """
    x = _logs(budgets)
    if baseline.shape != arm.shape or baseline.shape[1:] != x.shape:
        raise ValueError(f"curves of shape {baseline.shape} and {arm.shape} at {len(x)} budgets; give (seeds, budgets)")
    if at not in budgets:
        raise ValueError(f"budget {at:g} is none of {', '.join(f'{one:g}' for one in budgets)}")
    if not (np.isfinite(baseline).all() and np.isfinite(arm).all()):
        return _unknown(at, len(arm))
    column = list(budgets).index(at)
    found = [_reach(x, _monotone(one), _monotone(other)[column]) for one, other in zip(baseline, arm, strict=True)]
    logs = np.array([place - math.log(at) for place, _ in found])
    beyond, below = (sum(side == which for _, side in found) for which in (1, -1))
    return EfficiencyRatio(
        at, math.exp(logs.mean()), _interval(logs, beyond, below, confidence), len(logs), beyond, below
    )


def reaching_ratio(
    budgets: Sequence[float], arm: np.ndarray, wanted: np.ndarray, of: float = 1.0, confidence: float = 0.95
) -> EfficiencyRatio:
    """Return n_baseline / n_arm for one result: the budget with which the baseline reached it, over that of the arm.

    The baseline's curve is not asked for, only what it reaches in the end; `share` is the part of its budget that
    suffices the arm. The arm's curve is made monotone and linear in log n, and nothing is extrapolated. Where a number
    of either is not finite, the ratio is not known.

    Args:
        budgets: (B,) rising, of the arm.
        arm: (S, B), the metric of each seed.
        wanted: (S,), what the baseline reaches with the budget `of`, of the same seeds.
        of: budget of the baseline.
        confidence: of the interval.

    Raises:
        ValueError: as `area_over_log`, or shapes that differ.

    Example:
        >>> import numpy as np
        >>> from medpretrain3d.statistics import reaching_ratio
        >>> curves = np.array([[0.2, 0.4, 0.5], [0.1, 0.4, 0.6]])
        >>> str(reaching_ratio([0.25, 0.5, 1.0], curves, np.array([0.4, 0.4])))
        'needs 0.50 [0.50, 0.50] of the budget'
    """
    x = _logs(budgets)
    if arm.shape != (len(wanted), len(x)):
        raise ValueError(
            f"curves of shape {arm.shape}, {len(wanted)} results and {len(x)} budgets; give (seeds, budgets)"
        )
    if not (np.isfinite(arm).all() and np.isfinite(wanted).all()):
        return _unknown(of, len(arm))
    found = [_reach(x, _monotone(one), float(value)) for one, value in zip(arm, wanted, strict=True)]
    logs = np.array([math.log(of) - place for place, _ in found])
    # The sides are those of the ratio: an arm that is there with its smallest budget has a ratio of at least this.
    beyond = sum(place == x[0] for place, _ in found)
    below = sum(side == 1 for _, side in found)
    return EfficiencyRatio(
        of, math.exp(logs.mean()), _interval(logs, beyond, below, confidence), len(logs), beyond, below
    )


def _unknown(budget: float, num_seeds: int) -> EfficiencyRatio:
    return EfficiencyRatio(budget, math.nan, (math.nan, math.nan), num_seeds, 0, 0)


def _interval(logs: np.ndarray, beyond: int, below: int, confidence: float) -> tuple[float, float]:
    number = len(logs)
    if number < 2:
        return math.nan, math.nan
    half = float(critical_value(1 - confidence, number - 1)) * logs.std(ddof=1) / math.sqrt(number)
    low, high = logs.mean() - half, logs.mean() + half
    if beyond:  # the spread of what was cut off is not known
        low, high = min(low, float(logs.min())), math.inf
    if below:
        low, high = -math.inf, max(high, float(logs.max()))
    return math.exp(low), math.exp(high)


def _reach(x: np.ndarray, curve: np.ndarray, wanted: float) -> tuple[float, int]:
    """Return where a rising, finite curve first reaches a value; beyond its ends the end, and 1 or -1 for which."""
    at = int(np.searchsorted(curve, wanted, side="left"))
    if at == len(x):
        return float(x[-1]), 1
    if at == 0:
        return float(x[0]), 0 if curve[0] == wanted else -1
    share = (wanted - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(x[at - 1] + share * (x[at] - x[at - 1])), 0


def _monotone(curve: np.ndarray) -> np.ndarray:
    from scipy.optimize import isotonic_regression  # half a second, and only reports need it

    return np.asarray(isotonic_regression(curve).x)


def _logs(budgets: Sequence[float]) -> np.ndarray:
    values = np.asarray(budgets, dtype=float)
    if len(values) < 2 or not (values > 0).all() or not (np.diff(values) > 0).all():
        raise ValueError(f"budgets are {list(budgets)}, must be two or more that rise above 0")
    return np.asarray(np.log(values))
