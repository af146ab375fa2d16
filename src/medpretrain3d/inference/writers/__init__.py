"""The files that predictions are written into, one format per module.

`json`, `csv` and `coco` are one file for all scans; `slicer`, `nifti` and `masks` are one file per scan, in a folder of
the format's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.coco import write_coco
from medpretrain3d.inference.writers.document import predictions_json, write_json
from medpretrain3d.inference.writers.masks import mask_path, write_masks
from medpretrain3d.inference.writers.overlay import write_overlay
from medpretrain3d.inference.writers.slicer import write_slicer
from medpretrain3d.inference.writers.table import write_csv

__all__ = ["FORMATS", "Prediction", "mask_path", "predictions_json", "write_case", "write_predictions"]

RunWriter = Callable[[Path, Sequence[str], Sequence[Prediction]], None]
CaseWriter = Callable[[Path, Sequence[str], Prediction], None]

OF_RUN: dict[str, RunWriter] = {"json": write_json, "csv": write_csv, "coco": write_coco}
OF_CASE: dict[str, CaseWriter] = {"slicer": write_slicer, "nifti": write_overlay, "masks": write_masks}
FORMATS = (*OF_RUN, *OF_CASE)


def write_predictions(
    folder: Path, classes: Sequence[str], predictions: Sequence[Prediction], formats: Sequence[str] = ("json", "csv")
) -> None:
    """Write the files of all scans into a folder, each complete or not at all.

    Raises:
        UserError: two predictions of one case id, or the folder cannot be written.
    """
    for name in formats:
        if name in OF_RUN:
            OF_RUN[name](Path(folder), classes, predictions)


def write_case(folder: Path, classes: Sequence[str], prediction: Prediction, formats: Sequence[str]) -> None:
    """Write the files of one scan into a folder, each complete or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    for name in formats:
        if name in OF_CASE:
            OF_CASE[name](Path(folder), classes, prediction)
