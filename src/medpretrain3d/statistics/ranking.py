"""How much a ranking of arms owes to the seeds and scans that happened to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Arms by falling mean, how often each is first when seeds and scans are drawn anew, and how alike rankings are."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    shares_first: tuple[float, ...]
    """They sum to 1; arms that are equal share the place."""
    kendall_tau: float
    """Mean over the draws, to the ranking that was seen; 1 for always the same."""
    num_seeds: int
    """With one, only scans are drawn: this says nothing about the methods."""


def ranking_stability(names: Sequence[str], pseudo: np.ndarray, num_draws: int = 2000, seed: int = 0) -> Ranking:
    """Draw seeds and scans with replacement, the same for all arms.

    Args:
        names: (A,) of the arms.
        pseudo: (A, S, N) pseudo-values of the metric of each arm.
        num_draws: of the bootstrap.
        seed: of the bootstrap.
    """
    num_arms, num_seeds, num_scans = pseudo.shape
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_draws) / num_seeds
    of_scans = generator.multinomial(num_scans, np.full(num_scans, 1 / num_scans), num_draws) / num_scans
    means = np.stack([((of_seeds @ one) * of_scans).sum(axis=1) for one in pseudo])  # (A, R)
    is_first = means >= means.max(axis=0) - 1e-12
    shares = (is_first / is_first.sum(axis=0)).mean(axis=1)
    seen = pseudo.mean(axis=(1, 2))
    order = np.argsort(-seen, kind="stable")
    above, below = np.triu_indices(num_arms, k=1)
    agreement = np.sign(seen[above] - seen[below])[:, None] * np.sign(means[above] - means[below])
    return Ranking(
        tuple(names[place] for place in order),
        tuple(seen[order].tolist()),
        tuple(shares[order].tolist()),
        float(agreement.mean()) if num_arms > 1 else 1.0,
        num_seeds,
    )
