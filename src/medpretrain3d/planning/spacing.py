"""The spacing that all scans of a data set are brought to."""

from __future__ import annotations

import numpy as np

Spacing = tuple[float, float, float]

ANISOTROPIC = 3.0
"""Ratio of the coarsest spacing to the next one, and of the fewest slices to the next size, that counts as strong."""
MIN_OBJECT_VOX = 4
"""Along the shortest edge of an object; with fewer its box cannot be exact."""
DIGITS = 7
"""That a float32 keeps of a spacing; so few that scans of it have the same voxels again."""
LARGEST_CUBE_MM = 8.0
"""Coarser scans show no anatomy."""


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
    return _rounded(median_mm)


def coarser_spacing_mm(
    spacing_mm: Spacing, scan_mm: np.ndarray, shortest_edges_mm: np.ndarray, max_voxels: float
) -> Spacing:
    """Return a spacing at which the median scan has few enough voxels for a CPU, and small objects stay visible.

    The finest axes grow first, until voxels are cubes. They grow no further than lets nine of ten objects keep
    `MIN_OBJECT_VOX` voxels along their shortest edge: what objects need wins over the number of voxels.

    Args:
        spacing_mm: target along (D, H, W); what is coarser there stays.
        scan_mm: (3,) extent of the median scan.
        shortest_edges_mm: (N,) of the objects; may be empty.
        max_voxels: of the median scan.
    """
    fine = np.array(spacing_mm)

    def num_voxels(edge_mm: float) -> float:
        return float((scan_mm / np.maximum(fine, edge_mm)).prod())

    most_mm = np.percentile(shortest_edges_mm, 10) / MIN_OBJECT_VOX if len(shortest_edges_mm) else np.inf
    tenths, most = 0, int(10 * min(most_mm, LARGEST_CUBE_MM) + 1e-6)
    while num_voxels(tenths / 10) > max_voxels and tenths < most:
        tenths += 1
    return _rounded(np.maximum(fine, tenths / 10))


def _rounded(spacing_mm: np.ndarray) -> Spacing:
    """Return a spacing without the noise of headers, which store float32, and otherwise as it is.

    With four decimals 0.703125 became 0.7031 mm, at which 128 voxels are 129, and their patch 144.
    """
    d, h, w = (float(f"{value:.{DIGITS}g}") for value in spacing_mm.tolist())
    return (d, h, w)
