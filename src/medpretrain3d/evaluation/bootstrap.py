"""Intervals over patients: they are what varies, and not their scans or what is found in these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.patients import Patients
from medpretrain3d.statistics import MIN_PATIENTS, rate_interval, share_interval

NUM_BOOTSTRAP = 1000
CONFIDENCE = 0.95
INTERVAL_METHOD = "jackknife over patients, Korn and Graubard"

Metrics = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From weights of the scans (R, S) to metrics by name, (R,) for a scalar and (R, K) for a curve."""
NumBehind = Mapping[str, int | np.ndarray]
"""Patients that a metric rests on, by its name; (K,) for a curve whose points rest on different ones."""


@dataclass(frozen=True)
class Resampling:
    """Settings of intervals: confidence, and replicates and seed of what is drawn at random; 0 for no intervals.

    Intervals are not drawn: they follow from leaving out each patient once. What is drawn are the replicates of the
    mean that one of LUNA16's read-outs is, and the sign flips of a comparison of many patients.

    Raises:
        UserError: as `check_resampling`.
    """

    num_bootstrap: int = NUM_BOOTSTRAP
    seed: int = 0
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        check_resampling(self.num_bootstrap, self.seed, self.confidence)

    def estimate(
        self,
        metrics: Metrics,
        patients: Patients,
        num_behind: NumBehind,
        rates: Collection[str] = (),
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return every metric on the scans as they are, and its interval: a pair, or a pair per point of a curve.

        The interval is (nan, nan) for a metric that is nan, of all patients or without one of them, and where it rests
        on fewer than 10 patients; without replicates there are no intervals.

        Args:
            metrics: shares, which lie in [0, 1], and rates.
            patients: of the scans of the data set.
            num_behind: of every metric; of a recall these are the patients with an object, of a precision those with a
                detection.
            rates: names of the metrics that are rates.
        """
        return self.estimate_and_left_out(metrics, patients, num_behind, rates)[:2]

    def estimate_and_left_out(
        self,
        metrics: Metrics,
        patients: Patients,
        num_behind: NumBehind,
        rates: Collection[str] = (),
    ) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, np.ndarray]]:
        """Return what `estimate` does, and every metric without each group of patients (G, ...); empty for few."""
        values = {name: value[0] for name, value in metrics(np.ones((1, len(patients.of_scan)))).items()}
        intervals: dict[str, Any] = {}
        without: Mapping[str, np.ndarray] = {}
        if self.num_bootstrap:
            without = metrics(patients.left_out()) if patients.num >= MIN_PATIENTS else {}
            for name, value in values.items():
                interval = rate_interval if name in rates else share_interval
                points = np.atleast_1d(value)
                numbers = np.broadcast_to(num_behind[name], points.shape)
                left_out = without[name].reshape(-1, len(points)).T if without else np.full((len(points), 1), np.nan)
                pairs = [
                    list(interval(float(one), other, self.confidence, int(number)))
                    for one, other, number in zip(points, left_out, numbers, strict=True)
                ]
                intervals[name] = pairs if np.ndim(value) else pairs[0]
        return {name: value.tolist() for name, value in values.items()}, intervals, without

    def facts(self) -> dict[str, Any]:
        """Return the settings that a result states."""
        return {
            "num_bootstrap": self.num_bootstrap,
            "seed": self.seed,
            "confidence": self.confidence,
            "interval_method": INTERVAL_METHOD,
        }


def replicates(metrics: Metrics, num_scans: int, num_bootstrap: int, seed: int) -> dict[str, np.ndarray]:
    """Return every metric on each of `num_bootstrap` resampled sets of scans, shapes as `metrics` gives them."""
    weights = scan_weights(num_scans, num_bootstrap, seed)
    # 500 at a time: 10,000 replicates of 5,000 hits would need 400 MB per temporary.
    parts = [metrics(weights[start : start + 500]) for start in range(0, num_bootstrap, 500)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scan_weights(num_scans: int, num_bootstrap: int, seed: int) -> np.ndarray:
    """Draw the count of each scan in each bootstrap replicate, (num_bootstrap, num_scans); rows sum to `num_scans`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_scans, np.full(num_scans, 1 / num_scans), size=num_bootstrap).astype(float)


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
