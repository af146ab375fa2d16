"""The files of one case: NIfTI image, NIfTI instance map, class table; the same case gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.phantom.case import PhantomCase, case_rng
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.nifti_file import write_nifti

ORIENTATIONS = ("LPS", "RAS", "LAS")
"""How scanners and converters order the voxels of a file; a reader that ignores the affine mirrors two of three."""
ORGANS = "organs"
"""Folder of the masks of organs, in a phantom's folder."""


@dataclass(frozen=True)
class CaseFiles:
    """Paths of a case's files in an nnU-Net folder."""

    image: Path
    labels: Path
    table: Path
    lung: Path | None = None
    """Mask of the lungs; None where it is not wanted."""

    @staticmethod
    def of(folder: Path, case_id: str, is_test: bool, has_organs: bool = False) -> CaseFiles:
        """Return the paths of a case in `folder`; of organs in the layout of TotalSegmentator, a folder per case."""
        part = "Ts" if is_test else "Tr"
        labels = folder / f"labels{part}"
        return CaseFiles(
            folder / f"images{part}" / f"{case_id}_0000.nii.gz",
            labels / f"{case_id}.nii.gz",
            labels / f"{case_id}.json",
            folder / ORGANS / case_id / "lung.nii.gz" if has_organs else None,
        )

    def all_exist(self) -> bool:
        """Return whether the case was written completely."""
        return all(path is None or path.is_file() for path in (self.image, self.labels, self.table, self.lung))


def write_case(files: CaseFiles, case: PhantomCase, seed: int, index: int) -> None:
    """Write a case in a voxel order drawn from its own stream, each file completely or not at all, the table last.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    orientation = ORIENTATIONS[int(case_rng(seed, index, "orientation").integers(len(ORIENTATIONS)))]
    grid = reordered_grid(case.grid, orientation)
    write_nifti(files.image, reordered(case.image, orientation), grid)
    write_nifti(files.labels, reordered(case.instances, orientation), grid)
    if files.lung is not None:
        write_nifti(files.lung, reordered(case.lung.astype(np.uint8), orientation), grid)
    write_text(
        files.table,
        json_text({
            "instances": {str(instance): 0 for instance in range(1, len(case.diameters_mm) + 1)},
            "diameters_mm": {str(i): round(diameter, 3) for i, diameter in enumerate(case.diameters_mm, start=1)},
        }, indent=1),
    )  # fmt: skip


def reordered(array: np.ndarray, orientation: str) -> np.ndarray:
    """Return a canonical (D, H, W) array in file order (i, j, k), which runs towards `orientation`, such as "RAS"."""
    flipped = tuple(axis for axis, code in enumerate(orientation) if code in "RAI")
    return np.ascontiguousarray(np.flip(array.transpose(2, 1, 0), flipped))


def reordered_grid(grid: Grid, orientation: str) -> Grid:
    """Return the grid of what `reordered` gives for a canonical grid."""
    d, h, w = grid.shape
    shape = (w, h, d)
    to_canonical = np.zeros((4, 4))  # from file index to canonical index
    to_canonical[3, 3] = 1
    for axis, code in enumerate(orientation):
        is_flipped = code in "RAI"
        to_canonical[2 - axis, axis] = -1 if is_flipped else 1
        to_canonical[2 - axis, 3] = shape[axis] - 1 if is_flipped else 0
    return Grid(shape, grid.affine_lps @ to_canonical)
