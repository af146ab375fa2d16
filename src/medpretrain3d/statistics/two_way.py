"""Variance of a mean difference over seeds and scans, both random: a two-way layout with Satterthwaite's freedom.

A column is a patient: where one has several scans it is all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from medpretrain3d.statistics.effect import Effect
from medpretrain3d.statistics.pseudo_values import ROUNDING


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of one seed, of one scan, and of one seed on one scan; of a difference of two arms."""

    seed: float
    scan: float
    interaction: float

    @property
    def is_known(self) -> bool:
        """Whether a pilot saw any spread: not-a-number is none, and neither are runs that all found the same."""
        parts = (self.seed, self.scan, self.interaction)
        return all(math.isfinite(one) for one in parts) and any(one > 0 for one in parts)

    def of_mean(self, num_seeds: int, num_scans: int) -> float:
        """Return the variance of the mean over S seeds and N scans."""
        return self.seed / num_seeds + self.scan / num_scans + self.interaction / (num_seeds * num_scans)


@dataclass(frozen=True)
class MeanVariance:
    """What the rows and columns say about the variance of a mean over S seeds and N scans; numbers, or arrays of them.

    `of_seeds` is V_seed = var(row means) / S, `of_scans` V_scan = var(column means) / N, both with the interaction in
    them; `of_interaction` is V_int = MS_res / (S N).
    """

    of_seeds: Any
    of_scans: Any
    of_interaction: Any
    num_seeds: int
    num_scans: int

    @property
    def total(self) -> Any:
        """V = max(V_seed + V_scan - V_int, V_seed, V_scan)."""
        both = self.of_seeds + self.of_scans - self.of_interaction
        return np.maximum(both, np.maximum(self.of_seeds, self.of_scans))

    @property
    def degrees_of_freedom(self) -> Any:
        """V^2 / (V_seed^2 / (S - 1) + V_scan^2 / (N - 1)), within [S - 1, S N] (Satterthwaite, 1946)."""
        if self.num_seeds < 2:
            return self.num_scans - 1
        parts = self.of_seeds**2 / (self.num_seeds - 1) + self.of_scans**2 / (self.num_scans - 1)
        freedom = self.total**2 / np.maximum(parts, np.finfo(float).tiny)
        return np.clip(freedom, self.num_seeds - 1, self.num_seeds * self.num_scans)


def mean_variance(pseudo: np.ndarray) -> MeanVariance:
    """Return the parts of the variance of the mean of pseudo-values (S, N); one seed has a part of scans only."""
    num_seeds, num_scans = pseudo.shape
    of_scans = pseudo.mean(axis=0).var(ddof=1) / num_scans if num_scans > 1 else 0.0
    if num_seeds < 2:
        return MeanVariance(0.0, float(of_scans), 0.0, num_seeds, num_scans)
    of_seeds = pseudo.mean(axis=1).var(ddof=1) / num_seeds
    of_interaction = _residual_mean_square(pseudo) / (num_seeds * num_scans)
    return MeanVariance(float(of_seeds), float(of_scans), of_interaction, num_seeds, num_scans)


def variance_components(pseudo: np.ndarray) -> VarianceComponents:
    """Estimate the components from pseudo-values (S, N) of a pilot of at least two seeds; none is below 0.

    Those of pseudo-values that are not all finite are nan.

    Raises:
        ValueError: fewer than two seeds or scans.
    """
    num_seeds, num_scans = pseudo.shape
    if min(pseudo.shape) < 2:
        raise ValueError(f"variance components of {num_seeds} seeds and {num_scans} scans; give two of each at least")
    residual = _residual_mean_square(pseudo)
    seed = pseudo.mean(axis=1).var(ddof=1) - residual / num_scans
    scan = pseudo.mean(axis=0).var(ddof=1) - residual / num_seeds
    # Of max(0.0, nan) Python makes 0.0: a spread that is not known became none at all.
    seed, scan = (float(np.maximum(0.0, one)) for one in (seed, scan))
    return VarianceComponents(seed, scan, residual)


def effect_of(name: str, pseudo: np.ndarray) -> Effect:
    """Return the mean difference of pseudo-values (S, N) of paired seeds, with its standard error.

    Args:
        name: of the arm.
        pseudo: of the differences D_s = arm - baseline, see `pseudo_values`.
    """
    variance = mean_variance(pseudo)
    # Arms that are alike to the last bits but one differ by nothing, and surely not "significantly".
    difference, error = (0.0 if abs(one) <= ROUNDING else one for one in (pseudo.mean(), np.sqrt(variance.total)))
    return Effect(
        name,
        float(difference),
        float(error),
        float(variance.degrees_of_freedom),
        num_seeds=variance.num_seeds,
        num_scans=variance.num_scans,
    )


def _residual_mean_square(pseudo: np.ndarray) -> float:
    num_seeds, num_scans = pseudo.shape
    residual = pseudo - pseudo.mean(axis=0) - pseudo.mean(axis=1, keepdims=True) + pseudo.mean()
    return float((residual**2).sum() / max(1, (num_seeds - 1) * (num_scans - 1)))
