"""The files that predictions are written into, one format per module.

`json`, `csv` and `coco` are one file for all scans; `slicer`, `nifti` and `masks` are one file per scan, in a folder of
the format's name. A module is found by being here; a plugin registers its functions in `writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.document import predictions_json
from medpretrain3d.inference.writers.earlier import cases_written, formats_written
from medpretrain3d.inference.writers.masks import mask_path, mask_sha256
from medpretrain3d.inference.writers.writer import CASE_WRITERS, RUN_WRITERS, formats
from medpretrain3d.registry import import_modules

__all__ = [
    "CASE_WRITERS",
    "RUN_WRITERS",
    "Prediction",
    "cases_written",
    "formats",
    "formats_written",
    "mask_path",
    "mask_sha256",
    "predictions_json",
    "write_case",
    "write_predictions",
]

import_modules(__name__, __path__)


def write_predictions(
    folder: Path, classes: Sequence[str], predictions: Sequence[Prediction], formats: Sequence[str] = ("json", "csv")
) -> None:
    """Write the files of all scans into a folder, each complete or not at all.

    Raises:
        UserError: two predictions of one case id, or the folder cannot be written.
    """
    writers = RUN_WRITERS.parts()
    for name in formats:
        if name in writers:
            writers[name](Path(folder), classes, predictions)


def write_case(folder: Path, classes: Sequence[str], prediction: Prediction, formats: Sequence[str]) -> None:
    """Write the files of one scan into a folder, each complete or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    writers = CASE_WRITERS.parts()
    for name in formats:
        if name in writers:
            writers[name](Path(folder), classes, prediction)
