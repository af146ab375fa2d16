"""predictions.csv: one row per box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medpretrain3d.atomic import write_text
from medpretrain3d.boxes import box_center, box_size
from medpretrain3d.documents import csv_text
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import RUN_WRITERS

HEADER = (
    *("case", "file", "label", "score"),
    *(f"{edge}_lps_mm" for edge in ("x0", "y0", "z0", "x1", "y1", "z1")),
    *(f"center_{axis}_lps_mm" for axis in "xyz"),
    *(f"size_{axis}_mm" for axis in "xyz"),
    *(f"{edge}_file_vox" for edge in ("i0", "j0", "k0", "i1", "j1", "k1")),
)


def predictions_csv(classes: Sequence[str], predictions: Iterable[Prediction]) -> str:
    """Return the table of all scans; the header names unit and frame of every column."""
    rows = []
    for prediction in predictions:
        for box_mm, box_vox, score, label in zip(
            prediction.boxes_lps_mm, prediction.boxes_vox, prediction.scores, prediction.labels, strict=True
        ):
            numbers = [*box_mm, *box_center(box_mm), *box_size(box_mm), *box_vox]
            name = classes[int(label)]
            rows.append([prediction.case, prediction.file, name, f"{score:.6g}", *(f"{one:.3f}" for one in numbers)])
    return csv_text(HEADER, rows)


@RUN_WRITERS.register("csv")
def write_csv(folder: Path, classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write `predictions.csv`.

    Raises:
        UserError: the folder cannot be written.
    """
    write_text(folder / "predictions.csv", predictions_csv(classes, predictions))
