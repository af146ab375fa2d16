"""masks/<case>.nii.gz: the segmented objects as an instance map in the scan's own grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import CASE_WRITERS
from medpretrain3d.names import plain_name
from medpretrain3d.store.nifti_file import write_nifti


def mask_path(folder: Path, case: str) -> Path:
    """Return the path of a case's instance map."""
    return folder / "masks" / f"{plain_name(case, 'case id')}.nii.gz"


def mask_sha256(path: Path) -> str:
    """Compute the SHA-256 of an instance map's file, by which predictions say which one is of their boxes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@CASE_WRITERS.register("masks")
def write_masks(folder: Path, classes: Sequence[str], prediction: Prediction) -> None:
    """Write `masks/<case>.nii.gz`, if the prediction has masks: value `n` is the object of the case's n-th box.

    Raises:
        UserError: the folder cannot be written.
    """
    if prediction.instances is not None:
        write_nifti(mask_path(folder, prediction.case), prediction.instances, prediction.grid)
