"""The patient in a scan, and the intensities by which parts of it stand out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medpretrain3d.pseudo.options import PseudoOptions
from medpretrain3d.store.unit import Unit

BODY_HU = -300.0
SOFT_TISSUE_HU = (-150.0, 150.0)
"""Edges are looked for within these values: those of bone and lung would outdo all between soft tissues."""
BODY_SHARE = 0.1
"""Where values have no unit, the body is above this share of the way from percentile 0.5 to 99.5."""


@dataclass(frozen=True, eq=False)
class Body:
    """Where the patient is, and which values count as bright, as dark and as soft tissue."""

    mask: np.ndarray
    """(D, H, W) bool, cavities included."""
    bright: tuple[float, ...]
    """Thresholds above which voxels are bone, or bright."""
    dark: tuple[float, ...]
    soft: tuple[float, float]
    """Smallest and largest value of soft tissue."""


def find_body(image: np.ndarray, unit: Unit, options: PseudoOptions) -> Body:
    """Find the patient: the largest component of what is no air, with what it encloses in any axial slice.

    Args:
        image: (D, H, W) int16.
        unit: of its values; quantiles of the body are thresholds where there is none.
        options: thresholds.
    """
    if unit == "hu":
        return Body(_filled(image > BODY_HU), options.bone_hu, options.air_hu, SOFT_TISSUE_HU)
    low, high = np.percentile(image, [0.5, 99.5])
    mask = _filled(image > low + BODY_SHARE * (high - low))
    inside = image[mask] if mask.any() else image.ravel()
    bright = tuple(float(value) for value in np.quantile(inside, options.bright_quantile))
    dark = tuple(float(value) for value in np.quantile(inside, options.dark_quantile))
    return Body(mask, bright, dark, (min(dark), max(bright)))


def _filled(mask: np.ndarray) -> np.ndarray:
    import cc3d

    largest = cc3d.largest_k(mask, k=1, connectivity=6).astype(bool)
    return np.stack([_without_holes(plane) for plane in largest])


def _without_holes(plane: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) with the background inside that does not reach the edge of the plane."""
    import cc3d

    labels = cc3d.connected_components(~plane, connectivity=4)
    is_outside = np.zeros(int(labels.max()) + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        is_outside[edge] = True
    is_outside[0] = False  # the mask itself
    return np.asarray(~is_outside[labels])
