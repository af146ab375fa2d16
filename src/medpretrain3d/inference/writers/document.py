"""predictions.json: everything about every scan, as `medpretrain3d evaluate` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import RUN_WRITERS

FORMAT = "medpretrain3d-predictions"
VERSION = 1


def is_predictions(path: Path) -> bool:
    """Return whether a file begins as `write_json` begins one, or is empty."""
    with path.open("rb") as file:
        head = file.read(200)
    return not head.strip() or FORMAT.encode() in head


def predictions_json(classes: Sequence[str], predictions: Iterable[Prediction]) -> dict[str, Any]:
    """Return the predictions document of all scans.

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


@RUN_WRITERS.register("json")
def write_json(folder: Path, classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write `predictions.json`.

    Raises:
        UserError: two predictions of one case id, or the folder cannot be written.
    """
    write_text(folder / "predictions.json", json_text(predictions_json(classes, predictions)))
