"""A DICOM object as a file that is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medpretrain3d.atomic import finished_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def write_dicom(path: Path, dataset: Dataset | None) -> None:
    """Write an object; where there is none, a file of an earlier call is removed.

    Raises:
        UserError: the folder cannot be written.
    """
    if dataset is None:
        path.unlink(missing_ok=True)
        return
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of classes are of any script
    with finished_file(path) as unfinished:
        dataset.save_as(unfinished, enforce_file_format=True)
