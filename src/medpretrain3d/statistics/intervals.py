"""Intervals of a number that was measured on scans, from its values without each scan."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta, gamma, norm
from scipy.stats import t as student

from medpretrain3d.statistics.effect import MIN_SCANS
from medpretrain3d.statistics.pseudo_values import jackknife_variance

NO_INTERVAL = (math.nan, math.nan)


def share_interval(value: float, without: np.ndarray, confidence: float, num_scans: int) -> tuple[float, float]:
    """Return the interval of a number in [0, 1]: AP, recall, AUROC (Korn and Graubard, 1998).

    Clopper and Pearson's interval of `value` among as many draws as would have the jackknife's variance. Where all
    scans agree, these are the scans: 12 of 12 found is [0.735, 1] and not [1, 1], as a bootstrap has it.

    Args:
        value: on all scans.
        without: (G,), without each scan or group of scans.
        confidence: of the interval.
        num_scans: scans that the number rests on.

    Returns:
        Low and high; (nan, nan) with fewer than 10 scans, or where the number does not exist without one of them.
    """
    if not _is_enough(value, without, num_scans):
        return NO_INTERVAL
    alpha = 1 - confidence
    variance = float(jackknife_variance(without))
    spread = value * (1 - value)
    number = spread / variance if variance > 0 and spread > 0 else float(num_scans)
    # A variance from few scans is uncertain itself.
    number *= float(norm.isf(alpha / 2) / student.isf(alpha / 2, len(without) - 1)) ** 2 if spread > 0 else 1.0
    hits, misses = number * value, number * (1 - value)
    low = float(beta.ppf(alpha / 2, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.isf(alpha / 2, hits + 1, misses)) if misses > 0 else 1.0
    return low, high


def rate_interval(value: float, without: np.ndarray, confidence: float, num_scans: int) -> tuple[float, float]:
    """Return the interval of a rate, as of false positives per scan: the gamma interval (Fay and Feuer, 1997).

    Garwood's interval of as many events as would have the jackknife's variance; arguments as `share_interval`.
    """
    if not _is_enough(value, without, num_scans):
        return NO_INTERVAL
    alpha = 1 - confidence
    variance = float(jackknife_variance(without))
    unit = variance / value if variance > 0 and value > 0 else 1 / num_scans  # of rate per event
    events = value / unit
    if variance > 0:
        events *= float(norm.isf(alpha / 2) / student.isf(alpha / 2, len(without) - 1)) ** 2
    unit = value / events if events > 0 else unit
    low = float(gamma.ppf(alpha / 2, events)) * unit if events > 0 else 0.0
    return low, float(gamma.isf(alpha / 2, events + 1)) * unit


def _is_enough(value: float, without: np.ndarray, num_scans: int) -> bool:
    return num_scans >= MIN_SCANS and math.isfinite(value) and bool(np.isfinite(without).all())
