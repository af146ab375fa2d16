"""The spacing that all scans of a data set are brought to."""

from __future__ import annotations

import numpy as np

Spacing = tuple[float, float, float]

ANISOTROPIC = 3.0
"""Ratio of the coarsest spacing to the next one, and of the fewest slices to the next size, that counts as strong."""


def target_spacing_mm(spacings_mm: np.ndarray, shapes: np.ndarray) -> Spacing:
    """Return nnU-Net's rule (Isensee et al., 2021): medians; the 10th percentile on a strongly anisotropic axis.

    An axis is strongly anisotropic when its median spacing is more than 3 times the next coarser one *and* its median
    number of voxels is less than a third of the next smaller one. Its spacing never falls below that of the others.

    Args:
        spacings_mm: (N, 3) of the scans along (D, H, W).
        shapes: (N, 3) voxels of the scans.
    """
    median_mm, median_shape = np.median(spacings_mm, axis=0), np.median(shapes, axis=0)
    coarsest = int(median_mm.argmax())
    others = [axis for axis in range(3) if axis != coarsest]
    coarsest_by_far = median_mm[coarsest] > ANISOTROPIC * median_mm[others].max()
    few_slices = median_shape[coarsest] * ANISOTROPIC < median_shape[others].min()
    if coarsest_by_far and few_slices:
        median_mm[coarsest] = max(np.percentile(spacings_mm[:, coarsest], 10), median_mm[others].max())
    d, h, w = (round(float(value), 4) for value in median_mm)
    return (d, h, w)
