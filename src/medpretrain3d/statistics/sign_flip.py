"""Paired permutation test: had the two sides of each patient been exchanged, how large would the difference be?"""

from __future__ import annotations

import itertools
import math

import numpy as np

MAX_EXACT = 12
"""Patients up to which all 2^N exchanges are looked at."""


def sign_flip_p(pseudo: np.ndarray, num_permutations: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p of a mean of 0 when every value may have the other sign (Fisher, 1935).

    Args:
        pseudo: (N,) pseudo-values of a paired difference, one a patient.
        num_permutations: random ones, where N is above `MAX_EXACT`; below all 2^N are counted and p is exact.
        seed: of the random ones.

    Returns:
        Share of exchanges at least as extreme as what was seen; nan where a value is not finite.
    """
    if not np.isfinite(pseudo).all() or not len(pseudo):
        return math.nan
    seen = abs(float(pseudo.sum()))
    tolerance = 1e-9 * max(1.0, float(np.abs(pseudo).sum()))  # sums in another order differ in the last bits
    if len(pseudo) <= MAX_EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(pseudo))))
        return float((np.abs(signs @ pseudo) >= seen - tolerance).mean())
    generator = np.random.default_rng(seed)
    as_extreme = 1  # what was seen is one of the permutations
    for start in range(0, num_permutations, 1000):
        number = min(1000, num_permutations - start)
        signs = generator.integers(0, 2, (number, len(pseudo))) * 2.0 - 1
        as_extreme += int((np.abs(signs @ pseudo) >= seen - tolerance).sum())
    return as_extreme / (1 + num_permutations)
