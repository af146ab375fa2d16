"""Jackknife over scans: what each scan contributes to a metric that is computed from all of them together."""

from __future__ import annotations

import numpy as np

MAX_GROUPS = 200
"""Scans beyond these are left out in groups: 5,000 scans would ask for 5,000 evaluations, and 199 degrees of freedom
are as good as infinitely many."""
ROUNDING = 1e-10
"""What sums in another order differ by, and no metric does: one of 5,000 scans moves a share by more than 1e-7."""


def leave_one_out_weights(num_scans: int, max_groups: int = MAX_GROUPS) -> np.ndarray:
    """Return how often each scan counts when one group is left out, (G, N) of 0 and 1; G = N up to `max_groups`.

    Groups are every G-th scan (delete-a-group jackknife; Kott, 2001).
    """
    num_groups = min(num_scans, max_groups)
    return np.asarray(np.arange(num_scans)[None, :] % num_groups != np.arange(num_groups)[:, None], dtype=float)


def deviations(without: np.ndarray) -> np.ndarray:
    """Return how far a metric without each scan (..., N) lies from the mean of them; rounding is no deviation."""
    mean = without.mean(axis=-1, keepdims=True)
    found = without - mean
    return np.asarray(np.where(np.abs(found) <= ROUNDING * np.maximum(1.0, np.abs(mean)), 0.0, found))


def pseudo_values(value: np.ndarray | float, without: np.ndarray) -> np.ndarray:
    """Return pseudo-values N value - (N - 1) without, moved so that their mean is `value` (Tukey, 1958).

    The mean is moved because AP counts recall in 101 levels: N times a rounding is no estimate of a bias.

    Args:
        value: (...), the metric on all scans.
        without: (..., N), the metric without each scan, or without each of N groups of scans.

    Returns:
        (..., N).
    """
    whole = np.asarray(value, dtype=float)[..., None]
    number = without.shape[-1]
    return np.asarray(whole - (number - 1) * deviations(without))


def jackknife_variance(without: np.ndarray) -> np.ndarray:
    """Return the variance of a metric from its values without each scan (..., N): (N - 1) / N sum (x - mean)^2."""
    number = without.shape[-1]
    return np.asarray((number - 1) * np.square(deviations(without)).mean(axis=-1))
