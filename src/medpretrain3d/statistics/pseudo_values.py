"""Jackknife over patients: what each contributes to a metric that is computed from all scans together.

Scans of one patient are alike, so they are left out together. Where nobody knows the patients each scan is of its own,
and a scan is said where a patient is meant.
"""

from __future__ import annotations

import numpy as np

MAX_GROUPS = 200
"""Patients beyond these are left out in groups: 5,000 of them would ask for 5,000 evaluations, and 199 degrees of
freedom are as good as infinitely many."""
ROUNDING = 1e-10
"""What sums in another order differ by, and no metric does: one of 5,000 scans moves a share by more than 1e-7."""


def leave_one_out_weights(num_patients: int, max_groups: int = MAX_GROUPS) -> np.ndarray:
    """Return how often each patient counts when one group is left out, (G, K) of 0 and 1; G = K up to `max_groups`.

    Groups are every G-th patient (delete-a-group jackknife; Kott, 2001).
    """
    num_groups = min(num_patients, max_groups)
    return np.asarray(np.arange(num_patients)[None, :] % num_groups != np.arange(num_groups)[:, None], dtype=float)


def deviations(without: np.ndarray) -> np.ndarray:
    """Return how far a metric without each patient (..., K) lies from the mean of them; rounding is no deviation."""
    mean = without.mean(axis=-1, keepdims=True)
    found = without - mean
    return np.asarray(np.where(np.abs(found) <= ROUNDING * np.maximum(1.0, np.abs(mean)), 0.0, found))


def pseudo_values(value: np.ndarray | float, without: np.ndarray) -> np.ndarray:
    """Return pseudo-values K value - (K - 1) without, moved so that their mean is `value` (Tukey, 1958).

    The mean is moved because AP counts recall in 101 levels: K times a rounding is no estimate of a bias.

    Args:
        value: (...), the metric on all scans.
        without: (..., K), the metric without each patient, or without each of K groups of them.

    Returns:
        (..., K).
    """
    whole = np.asarray(value, dtype=float)[..., None]
    number = without.shape[-1]
    return np.asarray(whole - (number - 1) * deviations(without))


def jackknife_variance(without: np.ndarray) -> np.ndarray:
    """Return the variance of a metric from its values without each patient (..., K): (K - 1) / K sum (x - mean)^2."""
    number = without.shape[-1]
    return np.asarray((number - 1) * np.square(deviations(without)).mean(axis=-1))
