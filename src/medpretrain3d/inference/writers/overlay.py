"""nifti/<case>.nii.gz: the boxes as a label map in the scan's own grid, to lay over it in any viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import CASE_WRITERS
from medpretrain3d.names import plain_name
from medpretrain3d.store.nifti_file import write_nifti


def box_map(prediction: Prediction) -> np.ndarray:
    """(i, j, k): `label + 1` in every voxel whose centre lies in a box, of the best-scored box if in several.

    It is uint8, or the next unsigned type if a label does not fit.
    A box too thin along an axis to hold a voxel's centre fills the voxels there that its own centre lies in.
    """
    labels = np.zeros(prediction.grid.shape, dtype=np.min_scalar_type(int(prediction.labels.max(initial=0)) + 1))
    for box, label in zip(prediction.boxes_vox[::-1], prediction.labels[::-1], strict=True):
        # The centre of voxel v lies at v + 0.5, inside [low, high) from ceil(low - 0.5) to ceil(high - 0.5).
        low, high = np.ceil(box[:3] - 0.5).astype(int), np.ceil(box[3:] - 0.5).astype(int)
        middle = np.minimum(((box[:3] + box[3:]) / 2).astype(int), np.array(labels.shape) - 1)
        low, high = np.where(low < high, [low, high], [middle, middle + 1])
        labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = label + 1
    return labels


@CASE_WRITERS.register("nifti")
def write_overlay(folder: Path, classes: Sequence[str], prediction: Prediction) -> None:
    """Write `nifti/<case>.nii.gz`.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / "nifti" / f"{plain_name(prediction.case, 'case id')}.nii.gz"
    write_nifti(path, box_map(prediction), prediction.grid)
