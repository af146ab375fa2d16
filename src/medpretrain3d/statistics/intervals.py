"""Intervals of a number that was measured on scans, from its values without each patient."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainccinv, betaincinv, gammainccinv, gammaincinv, ndtri, stdtrit

from medpretrain3d.statistics.effect import MIN_PATIENTS
from medpretrain3d.statistics.pseudo_values import ROUNDING, jackknife_variance

NO_INTERVAL = (math.nan, math.nan)


def share_interval(value: float, without: np.ndarray, confidence: float, num_patients: int) -> tuple[float, float]:
    """Return the interval of a number in [0, 1]: AP, recall, AUROC (Korn and Graubard, 1998).

    Clopper and Pearson's interval of `value` among as many draws as would have the jackknife's variance. Where all
    agree, these are the patients: 12 of 12 found is [0.735, 1] and not [1, 1], as a bootstrap has it. A number that
    lies outside of [0, 1] (a class counted as -1) has the interval of a mean.

    Args:
        value: on all scans.
        without: (G,), without each patient or group of patients.
        confidence: of the interval.
        num_patients: that the number rests on.

    Returns:
        Low and high; (nan, nan) with fewer than 10 patients, or where the number does not exist without one of them.
    """
    if not _is_enough(value, without, num_patients):
        return NO_INTERVAL
    tail = (1 - confidence) / 2
    if not -ROUNDING <= value <= 1 + ROUNDING:
        return mean_interval(value, without, confidence, num_patients)
    value = min(max(value, 0.0), 1.0)
    variance, spread = float(jackknife_variance(without)), value * (1 - value)
    number = float(num_patients)
    if variance > 0 and spread > ROUNDING:
        number = spread / variance * _uncertainty(tail, len(without))
    hits, misses = number * value, number * (1 - value)
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    high = float(betainccinv(hits + 1, misses, tail)) if misses > 0 else 1.0
    return low, high


def rate_interval(value: float, without: np.ndarray, confidence: float, num_patients: int) -> tuple[float, float]:
    """Return the interval of a rate, as of false positives per scan: the gamma interval (Fay and Feuer, 1997).

    Garwood's interval of as many events as would have the jackknife's variance; arguments as `share_interval`.
    """
    if not _is_enough(value, without, num_patients):
        return NO_INTERVAL
    tail = (1 - confidence) / 2
    variance = float(jackknife_variance(without))
    events = value * num_patients
    if variance > 0 and value > 0:
        events = value**2 / variance * _uncertainty(tail, len(without))
    unit = value / events if events > 0 else 1 / num_patients  # of rate per event
    low = float(gammaincinv(events, tail)) * unit if events > 0 else 0.0
    return low, float(gammainccinv(events + 1, tail)) * unit


def mean_interval(value: float, without: np.ndarray, confidence: float, num_patients: int) -> tuple[float, float]:
    """Return value +- t standard errors, for a number without limits; arguments as `share_interval`."""
    if not _is_enough(value, without, num_patients):
        return NO_INTERVAL
    half = -float(stdtrit(len(without) - 1, (1 - confidence) / 2)) * math.sqrt(float(jackknife_variance(without)))
    return value - half, value + half


def _uncertainty(tail: float, num_groups: int) -> float:
    """Return by what a variance from few patients, uncertain itself, lowers the number of draws that it stands for."""
    return float(ndtri(tail) / stdtrit(num_groups - 1, tail)) ** 2


def _is_enough(value: float, without: np.ndarray, num_patients: int) -> bool:
    return num_patients >= MIN_PATIENTS and math.isfinite(value) and bool(np.isfinite(without).all())
