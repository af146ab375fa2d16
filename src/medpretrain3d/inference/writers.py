"""What was found in a scan, and the two files it is written into: predictions.json and predictions.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.boxes import Detections
from medpretrain3d.data.grid import Grid
from medpretrain3d.errors import UserError

FORMAT = "medpretrain3d-predictions"
VERSION = 1
CSV_HEADER = (
    *("case", "file", "label", "score"),
    *(f"{edge}_lps_mm" for edge in ("x0", "y0", "z0", "x1", "y1", "z1")),
    *(f"center_{axis}_lps_mm" for axis in "xyz"),
    *(f"size_{axis}_mm" for axis in "xyz"),
    *(f"{edge}_file_vox" for edge in ("i0", "j0", "k0", "i1", "j1", "k1")),
)


@dataclass(frozen=True)
class Prediction:
    """What was found in one scan, best score first."""

    case: str
    boxes_lps_mm: np.ndarray
    """(N, 6) float64 (x0, y0, z0, x1, y1, z1): x grows to the patient's left, y to posterior, z to superior."""
    boxes_vox: np.ndarray
    """(N, 6) float64 (i0, j0, k0, i1, j1, k1) in the file's own array order, half-open."""
    scores: np.ndarray
    """(N,) in [0, 1]."""
    labels: np.ndarray
    """(N,) int64, index into the classes."""
    file: str = ""
    """Name of the scan's file, without folders."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def of(case: str, detections: Detections, grid: Grid, source_grid: Grid, file: str = "") -> Prediction:
        """Take detections from the grid they were found on to the scan's file, cut to its extent.

        Args:
            case: id of the scan.
            detections: in voxels of `grid`.
            grid: of the resampled, reoriented volume.
            source_grid: of the file, in its own array order.
            file: name of the scan's file.
        """
        boxes_vox = grid.map_boxes(detections.boxes.cpu().numpy().astype(np.float64), source_grid)
        # A resampled grid may end a fraction of a voxel behind the file's last voxel.
        boxes_vox = np.clip(boxes_vox, 0, np.tile(source_grid.shape, 2))
        kept = (boxes_vox[:, 3:] > boxes_vox[:, :3]).all(axis=1)
        boxes_vox = boxes_vox[kept]
        return Prediction(
            case,
            source_grid.boxes_to_lps_mm(boxes_vox),
            boxes_vox,
            detections.scores.cpu().numpy()[kept],
            detections.labels.cpu().numpy()[kept],
            file,
        )

    def to_json(self) -> dict[str, Any]:
        """The case's entry in a predictions file: millimetres and voxels to 4 decimals, scores as stored in float32."""
        return {
            "case": self.case,
            "boxes": np.round(self.boxes_lps_mm, 4).tolist(),
            "scores": [float(f"{score:.9g}") for score in self.scores],  # 9 digits tell every float32 apart
            "labels": [int(label) for label in self.labels],
            "boxes_vox": np.round(self.boxes_vox, 4).tolist(),
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any], file: str = "") -> Prediction:
        """Inverse of `to_json`, up to its rounding."""
        return Prediction(
            entry["case"],
            np.asarray(entry["boxes"], dtype=np.float64).reshape(-1, 6),
            np.asarray(entry["boxes_vox"], dtype=np.float64).reshape(-1, 6),
            np.asarray(entry["scores"], dtype=np.float32),
            np.asarray(entry["labels"], dtype=np.int64),
            file,
        )


def predictions_json(classes: Sequence[str], predictions: Iterable[Prediction]) -> dict[str, Any]:
    """The predictions document of all cases, as `medpretrain3d evaluate` reads it.

    Raises:
        UserError: two predictions of one case id.
    """
    entries = [prediction.to_json() for prediction in predictions]
    ids = [entry["case"] for entry in entries]
    if len(set(ids)) < len(ids):
        twice = sorted({case for case in ids if ids.count(case) > 1})
        raise UserError(f"predictions: case '{twice[0]}' is there more than once; give every scan its own name")
    return {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(classes),
        "frame": "lps_mm",
        "axes": "x0,y0,z0,x1,y1,z1",
        "predictions": entries,
    }


def predictions_csv(classes: Sequence[str], predictions: Iterable[Prediction]) -> str:
    """One row per box; the header names unit and frame of every column."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_HEADER)
    for prediction in predictions:
        for box_mm, box_vox, score, label in zip(
            prediction.boxes_lps_mm, prediction.boxes_vox, prediction.scores, prediction.labels, strict=True
        ):
            numbers = [*box_mm, *((box_mm[:3] + box_mm[3:]) / 2), *(box_mm[3:] - box_mm[:3]), *box_vox]
            name = classes[int(label)]
            rows.writerow(
                [prediction.case, prediction.file, name, f"{score:.6g}", *(f"{number:.3f}" for number in numbers)]
            )
    return text.getvalue()


def write_predictions(folder: Path, classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write `predictions.json` and `predictions.csv` into a folder, each complete or not at all.

    Raises:
        UserError: two predictions of one case id, or the folder cannot be written.
    """
    document = json.dumps(predictions_json(classes, predictions), allow_nan=False)
    write_text(Path(folder) / "predictions.json", document + "\n")
    write_text(Path(folder) / "predictions.csv", predictions_csv(classes, predictions))
