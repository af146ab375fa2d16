"""Resampling of scans: the patient is the unit that varies, not the detection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError

NUM_BOOTSTRAP = 1000
CONFIDENCE = 0.95

Metrics = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights of the scans (R, S) to metrics by name, (R,) for a scalar and (R, K) for a curve."""


@dataclass(frozen=True)
class Resampling:
    """Bootstrap settings of confidence intervals: replicates (0 for none), seed, confidence.

    Raises:
        UserError: as `check_resampling`.
    """

    num_bootstrap: int = NUM_BOOTSTRAP
    seed: int = 0
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        check_resampling(self.num_bootstrap, self.seed, self.confidence)

    def estimate(self, metrics: Metrics, num_scans: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return every metric on the scans as they are, and its interval: a pair, or a pair per point of a curve.

        A metric that is nan has the interval (nan, nan); without replicates there are no intervals.
        """
        values = {name: value[0].tolist() for name, value in metrics(np.ones((1, num_scans))).items()}
        intervals: dict[str, Any] = {}
        if self.num_bootstrap:
            for name, value in replicates(metrics, num_scans, self.num_bootstrap, self.seed).items():
                interval = percentile_interval(value.reshape(self.num_bootstrap, -1), self.confidence)
                interval[:, np.isnan(np.atleast_1d(values[name]))] = np.nan
                intervals[name] = interval[:, 0].tolist() if value.ndim == 1 else interval.T.tolist()
        return values, intervals

    def facts(self) -> dict[str, Any]:
        """Return the bootstrap settings that a result states."""
        return {"num_bootstrap": self.num_bootstrap, "seed": self.seed, "confidence": self.confidence}


def replicates(metrics: Metrics, num_scans: int, num_bootstrap: int, seed: int) -> dict[str, np.ndarray]:
    """Return every metric on each of `num_bootstrap` resampled sets of scans, shapes as `metrics` gives them."""
    weights = scan_weights(num_scans, num_bootstrap, seed)
    # 500 at a time: 10,000 replicates of 5,000 hits would need 400 MB per temporary.
    parts = [metrics(weights[start : start + 500]) for start in range(0, num_bootstrap, 500)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scan_weights(num_scans: int, num_bootstrap: int, seed: int) -> np.ndarray:
    """Draw the count of each scan in each bootstrap replicate, (num_bootstrap, num_scans); rows sum to `num_scans`.

    The same seed gives the same scans, which pairs the replicates of two prediction files.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_scans, np.full(num_scans, 1 / num_scans), size=num_bootstrap).astype(float)


def percentile_interval(replicates: np.ndarray, confidence: float) -> np.ndarray:
    """The central `confidence` share of the replicates along axis 0: (2, ...) (Efron & Tibshirani, 1993, ch. 13).

    A replicate in which the quantity is undefined (nan) is left out; nan where none is defined.
    """
    tail = (1 - confidence) / 2
    defined = ~np.isnan(replicates).all(axis=0)
    interval = np.full((2, *replicates.shape[1:]), np.nan)
    interval[:, defined] = np.nanquantile(replicates[:, defined], [tail, 1 - tail], axis=0)
    return interval


def two_sided_p(differences: np.ndarray) -> float:
    """Return achieved significance of a difference of zero, from bootstrap replicates of the difference (R,).

    p = min(1, 2 min(1 + #{d <= 0}, 1 + #{d >= 0}) / (1 + R)): never 0, and 1 where nothing differs
    (Davison & Hinkley, 1997, eq. 4.11 applied to both tails).
    """
    defined = np.round(differences[~np.isnan(differences)], 12)  # sums in another order differ in the last bit
    if not len(defined):
        return float("nan")
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (1 + fewer) / (1 + len(defined))))


def check_resampling(num_bootstrap: int, seed: int, confidence: float, at_least: int = 0) -> None:
    """Refuse settings that make no interval.

    Raises:
        UserError: fewer than `at_least` replicates, a seed below 0, or a confidence outside (0, 1).
    """
    if num_bootstrap < at_least:
        raise UserError(
            f"number of bootstrap replicates is {num_bootstrap}, must be at least {at_least}; 1000 is usual"
        )
    if seed < 0:
        raise UserError(f"seed is {seed}, must be 0 or more")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence:g}, must lie between 0 and 1; 0.95 is usual")
