"""Organ masks of a segmenter beside the scans of a store, in the layout of TotalSegmentator's results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.pseudo.region import Region
from medpretrain3d.store.case import Case
from medpretrain3d.store.readers import find_volumes
from medpretrain3d.store.volume import check_same_place, read_labels, resample_labels


def organ_files(folder: Path, case_id: str) -> list[Path]:
    """Return the masks of a case: `<case>/segmentations/*`, `<case>/*`, or one label map `<case>.nii.gz` (`--ml`).

    Raises:
        UserError: there is none.
    """
    for place in (folder / case_id / "segmentations", folder / case_id):
        if place.is_dir() and (found := sorted(find_volumes(place))):
            return found
    whole = [path for path in sorted(folder.glob(f"{case_id}.*")) if path.is_file()]
    if len(whole) != 1:
        raise UserError(
            f"case {case_id}: no masks in {folder}; wanted {case_id}/segmentations/<organ>.nii.gz, "
            f"{case_id}/<organ>.nii.gz or one label map {case_id}.nii.gz"
        )
    return whole


def organs(case: Case, folder: Path) -> Iterator[Region]:
    """Return an object for every value above 0 of every mask of a case, on the grid of the store.

    Raises:
        UserError: there is no mask, or one that lies elsewhere than the scan.
    """
    scan_grid = case.source_grid.canonical()[0]
    for path in organ_files(folder, case.id):
        volume = read_labels(path)
        check_same_place(path, volume.grid, Path(case.source_file), scan_grid)
        if volume.grid.shape != case.grid.shape:
            volume = resample_labels(volume, case.grid.spacing_mm)
        labels = volume.array[0]
        if labels.shape != case.grid.shape:
            raise UserError(f"{path}: {labels.shape} voxels on the store's grid, case {case.id} has {case.grid.shape}")
        for value in np.unique(labels[labels > 0]).tolist():
            yield Region.of_mask("organ", labels == value)
