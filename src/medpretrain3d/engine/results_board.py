"""What a test found, in the forms that dashboards draw: numbers, tables, curves and boxes on slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medpretrain3d.visualization.box_pictures import BoxSlice

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis: points (x, y) by the name of the line."""

    title: str
    x_name: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class ResultsBoard:
    """The test of a run, for dashboards."""

    summary: Mapping[str, float]
    """Single numbers, with `_low` and `_high` beside those that have an interval."""
    tables: Mapping[str, Table]
    charts: Mapping[str, Chart]
    slices: Mapping[str, Sequence[BoxSlice]]
    """Of each pictured case, by the name that it has on dashboards."""
    classes: Sequence[str]
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """The same cases drawn as one picture each, for boards that draw no boxes."""


def drawn_boxes(one: BoxSlice, classes: Sequence[str]) -> dict[str, Any]:
    """Return the boxes of a slice as wandb draws them, with a switch for truth and detections, and one per class."""
    names = dict(enumerate(classes))

    def entry(box: Sequence[float], label: int, score: float | None = None) -> dict[str, Any]:
        left, top, right, bottom = (float(edge) for edge in box)
        corners = {"minX": left, "maxX": right, "minY": top, "maxY": bottom}
        about = {"position": corners, "domain": "pixel", "class_id": int(label)}
        if score is None:
            return {**about, "box_caption": classes[label]}
        return {**about, "box_caption": f"{classes[label]} {score:.2f}", "scores": {"score": float(score)}}

    truth = [entry(box, label) for box, label in zip(one.boxes, one.labels, strict=True)]
    found = [entry(*each) for each in zip(one.det_boxes, one.det_labels, one.det_scores, strict=True)]
    return {
        "truth": {"box_data": truth, "class_labels": names},
        "detections": {"box_data": found, "class_labels": names},
    }
