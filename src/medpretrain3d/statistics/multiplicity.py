"""Several questions at once: Holm's step-down correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm_factors(p_values: Sequence[float]) -> np.ndarray:
    """Return what each p value is multiplied with so that all together err with probability alpha (Holm, 1979).

    The i-th smallest of m (from 0) is multiplied with m - i, and is at least as large as the corrected ones before it.
    Values that are nan ask nothing and stay nan.
    """
    p = np.asarray(p_values, dtype=float)
    factors = np.full(p.shape, np.nan)
    asked = np.nonzero(~np.isnan(p))[0]
    order = asked[np.argsort(p[asked], kind="stable")]
    plain = (len(order) - np.arange(len(order))).astype(float)
    corrected = np.maximum.accumulate(plain * p[order])
    with np.errstate(divide="ignore", invalid="ignore"):
        factors[order] = np.where(p[order] > 0, corrected / p[order], plain)
    return factors


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's corrected p values, at most 1; nan stays nan and counts for nothing.

    Example:
        >>> from medpretrain3d.statistics import holm
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    return np.asarray(np.minimum(1.0, np.asarray(p_values, dtype=float) * holm_factors(p_values)))
