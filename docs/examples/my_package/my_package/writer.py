"""A format of predictions of one's own: one line of text per box, for all scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.atomic import write_text
from medpretrain3d.inference.writers import RUN_WRITERS, Prediction


@RUN_WRITERS.register("lines")
def write_lines(folder: Path, classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write `predictions.txt`: case, class, score, center in LPS mm."""
    lines = [
        f"{found.case} {classes[label]} {score:.3f} " + " ".join(f"{edge:.1f}" for edge in (box[:3] + box[3:]) / 2)
        for found in predictions
        for box, label, score in zip(found.boxes_lps_mm, found.labels, found.scores, strict=True)
    ]
    write_text(folder / "predictions.txt", "\n".join(["# case class score x y z (LPS mm)", *lines]) + "\n")
