"""Whether a volume can be a scan of a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medpretrain3d.store.skipped_cases import InvalidCaseError
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import SMALLEST_RANGE_HU, Volume

MIN_VOX = 4
"""Fewer voxels along an axis are a localizer or a cut of one, not a volume."""
EXTENT_MM = (2.0, 3000.0)
"""Along each axis; outside, the spacing is in other units."""
MAX_ANISOTROPY = 100
TISSUE_HU = -500
MIN_TISSUE = 1e-3
"""Share of voxels above `TISSUE_HU`; a CT of an empty table has less."""


def check_plausible(path: Path, volume: Volume, unit: Unit) -> None:
    """Refuse what is no scan of a patient, as read and before it is resampled.

    Raises:
        InvalidCaseError: implausible size or spacing; one value only; in HU, next to nothing but air.
    """
    shape, spacing_mm = volume.grid.shape, volume.grid.spacing_mm
    extent_mm = np.array(shape) * spacing_mm
    if min(shape) < MIN_VOX:
        raise InvalidCaseError(f"{path}: {shape} voxels (axes S, P, L), wanted {MIN_VOX} or more along each", "size")
    if not ((extent_mm >= EXTENT_MM[0]) & (extent_mm <= EXTENT_MM[1])).all():
        message = ", ".join(f"{mm:.4g}" for mm in extent_mm)
        raise InvalidCaseError(
            f"{path}: is {message} mm large (axes S, P, L), wanted {EXTENT_MM[0]:g} to {EXTENT_MM[1]:g}; "
            "check the spacing",
            "geometry",
        )
    if max(spacing_mm) > MAX_ANISOTROPY * min(spacing_mm):
        message = ", ".join(f"{mm:.4g}" for mm in spacing_mm)
        raise InvalidCaseError(
            f"{path}: voxels of {message} mm, one edge over {MAX_ANISOTROPY} times another", "geometry"
        )
    for channel in volume.array:
        if channel.min() == channel.max():
            raise InvalidCaseError(f"{path}: every voxel is {int(channel.min())}; give the scan itself", "no tissue")
    tissue = np.count_nonzero(volume.array > TISSUE_HU) / volume.array.size
    if unit == "hu" and tissue < MIN_TISSUE:
        raise InvalidCaseError(
            f"{path}: {tissue:.2%} of the voxels are above {TISSUE_HU} HU: nothing but air", "no tissue"
        )
    low, high = int(volume.array.min()), int(volume.array.max())
    if unit == "hu" and high - low < SMALLEST_RANGE_HU:
        raise InvalidCaseError(f"{path}: values from {low} to {high}, as of a label map; give the scan in HU", "values")
