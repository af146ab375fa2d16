"""Organ masks of a segmenter beside the scans of a store, in the layout of TotalSegmentator's results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.pseudo.region import Region
from medpretrain3d.store.case import Case
from medpretrain3d.store.organ_files import organ_files
from medpretrain3d.store.volume import check_same_place, read_labels, resample_labels


def organs(case: Case, folder: Path) -> Iterator[Region]:
    """Return an object for every value above 0 of every mask of a case, on the grid of the store.

    Raises:
        UserError: there is no mask, or one that lies elsewhere than the scan.
    """
    scan_grid = case.source_grid.canonical()[0]
    for path in organ_files(folder, case.id):
        volume = read_labels(path)
        check_same_place(path, volume.grid, Path(case.source_file), scan_grid)
        if scan_grid != case.grid:  # of another spacing, if perhaps of as many voxels
            volume = resample_labels(replace(volume, grid=scan_grid), case.grid.spacing_mm)
        labels = volume.array[0]
        if labels.shape != case.grid.shape:
            raise UserError(f"{path}: {labels.shape} voxels on the store's grid, case {case.id} has {case.grid.shape}")
        for value in np.unique(labels[labels > 0]).tolist():
            yield Region.of_mask("organ", labels == value)
