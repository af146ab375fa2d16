"""Output of every reader: the voxels of one file or series, and their geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.skipped_cases import InvalidCaseError

SPACING_RANGE_MM = (0.01, 100.0)
"""Spacing outside is an error of units or of the writing program."""
MAX_SHIFT_VOX = 0.5
"""Over the whole volume slices may be shifted in their plane by this; more is a tilted gantry, or a sheared header."""
MAX_CHANNELS = 16
"""A fourth axis up to this long holds the channels of a case; a longer one is a series in time."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels in the file's own order and number type, rescaled as its header says.

    Args:
        voxels: (C, i, j, k), finite numbers.
        affine_lps: (4, 4) float64, from voxel index to LPS mm.
        modality: DICOM's, as `CT` or `MR`; empty where the file does not say.
        not_hu: why its values cannot be taken for HU, where the file's header shows it.
        tilted_grid: of the file's own slices, where a tilted gantry had shifted them and they were moved back.

    Raises:
        InvalidCaseError: voxels that are not finite.
    """

    path: Path
    voxels: np.ndarray
    affine_lps: np.ndarray
    modality: str = ""
    not_hu: str = ""
    tilted_grid: Grid | None = None

    def __post_init__(self) -> None:
        """Refuse what arithmetic would spread over the whole image."""
        if self.voxels.dtype.kind == "f":
            num_bad = self.voxels.size - int(np.isfinite(self.voxels).sum())
            if num_bad:
                raise InvalidCaseError(
                    f"{self.path}: {num_bad:,} of {self.voxels.size:,} voxels are NaN or infinite; "
                    "replace them by -1024",
                    "not finite",
                )

    @property
    def grid(self) -> Grid:
        """Grid of the file, in its own array order."""
        return Grid((self.voxels.shape[1], self.voxels.shape[2], self.voxels.shape[3]), self.affine_lps)

    def check_single_channel(self) -> None:
        """Refuse a mask of several channels, of which all but one would be left out.

        Raises:
            InvalidCaseError: it has several.
        """
        if len(self.voxels) != 1:
            raise InvalidCaseError(
                f"{self.path}: a mask of {len(self.voxels)} channels, wanted one; write overlapping objects apart",
                "values",
            )

    def in_order_of(self, grid: Grid) -> np.ndarray | None:
        """Return the voxels (C, i, j, k) in the order in which another grid stores them.

        Args:
            grid: of a file whose axes may be stored in another order and direction.

        Returns:
            They, or None where the voxels of the grid are not those of this scan.
        """
        own, order, mirrored = self.grid.canonical()
        other, its_order, its_mirrored = grid.canonical()
        if not other.is_close(own):
            return None
        voxels = self.voxels.transpose(0, *(axis + 1 for axis in order))
        turned = tuple(axis + 1 for axis in {*mirrored} ^ {*its_mirrored})
        result: np.ndarray = np.flip(voxels, turned).transpose(0, *(np.argsort(its_order) + 1))
        return result


def checked_affine(path: Path, affine: np.ndarray, shape: Sequence[int], is_tilt_allowed: bool = False) -> np.ndarray:
    """Return the affine, unless no scanner writes such a one, or its voxels are no boxes.

    Args:
        path: for messages.
        affine: (4, 4), from voxel index to mm.
        shape: voxels along each of its axes.
        is_tilt_allowed: whether it may be sheared.

    Raises:
        InvalidCaseError: it is not finite, its spacing is implausible, its axes are parallel, or it is sheared, as a
            tilted gantry does it: crops, boxes and rotations would be taken for rectangular ones.
    """
    low, high = SPACING_RANGE_MM
    with np.errstate(invalid="ignore"):
        lengths_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not ((lengths_mm >= low) & (lengths_mm <= high)).all():
        raise InvalidCaseError(
            f"{path}: affine {affine.tolist()} gives voxels of {lengths_mm.tolist()} mm, wanted {low} to {high}; "
            "correct its sform or directions",
            "geometry",
        )
    if abs(np.linalg.det(affine[:3, :3] / lengths_mm)) < 1e-3:
        raise InvalidCaseError(
            f"{path}: affine {affine.tolist()} is singular: axes are parallel; correct its sform or directions",
            "geometry",
        )
    shift_vox, degrees = _shear(affine[:3, :3], shape)
    if shift_vox > MAX_SHIFT_VOX and not is_tilt_allowed:
        raise InvalidCaseError(
            f"{path}: gantry tilted by {degrees:.1f} degrees, or sheared: slices are shifted against each other, by "
            f"{shift_vox:.3g} voxels over the volume; straighten it first, e.g. by dcm2niix, or DICOM by "
            "--straighten",
            "gantry tilt",
        )
    return affine


def _shear(axes: np.ndarray, shape: Sequence[int]) -> tuple[float, float]:
    """Compute the shear of axes (3, 3; the last one is the stack's): their deviation from right angles to earlier ones.

    Returns:
        The largest shift along an earlier axis over the whole of a later one, in voxels, and that angle in degrees.
    """
    upper = np.linalg.qr(axes)[1]
    worst = (0.0, 0.0)
    for along, stacked in ((0, 1), (0, 2), (1, 2)):
        shift_mm = abs(float(upper[along, stacked]))
        shift_vox = shift_mm * (shape[stacked] - 1) / abs(float(upper[along, along]))
        worst = max(worst, (shift_vox, float(np.degrees(np.arctan2(shift_mm, abs(upper[stacked, stacked]))))))
    return worst


def spatial_shape(path: Path, sizes: list[int]) -> tuple[tuple[int, int, int], int]:
    """Return sizes of a header's axes as a shape (i, j, k) and a number of channels, which the fourth axis holds.

    Raises:
        InvalidCaseError: a size below 1, fewer than three axes, or more than the channels of one scan.
    """
    if not sizes or min(sizes) < 1:
        raise InvalidCaseError(f"{path}: header has sizes {sizes}; wanted positive sizes; export it again", "geometry")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) == 5 and sizes[3] == 1:  # NIfTI keeps its fourth axis for time, so vectors use the fifth
        sizes = [*sizes[:3], sizes[4]]
    if len(sizes) == 3:
        sizes = [*sizes, 1]
    if len(sizes) != 4 or sizes[3] > MAX_CHANNELS:
        advice = "stack the slices" if len(sizes) < 4 else "write one file per channel or time point"
        raise InvalidCaseError(
            f"{path}: got shape {tuple(sizes)} ({len(sizes)}D), wanted 3D, or 4D with up to {MAX_CHANNELS} channels; "
            f"{advice}",
            "size",
        )
    return (sizes[0], sizes[1], sizes[2]), sizes[3]
