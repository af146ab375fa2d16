"""Resampling of scans: the patient is the unit that varies, not the detection."""

from __future__ import annotations

import numpy as np

from medpretrain3d.errors import UserError

NUM_BOOTSTRAP = 1000
CONFIDENCE = 0.95


def scan_weights(num_scans: int, num_bootstrap: int, seed: int) -> np.ndarray:
    """How often each scan is drawn in each replicate, (num_bootstrap, num_scans); rows sum to `num_scans`.

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
    """Achieved significance of a difference of zero, from bootstrap replicates of the difference (R,).

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
