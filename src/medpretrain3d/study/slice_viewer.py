"""Test cases on a page: slices as small pictures, and the boxes of every arm on them as numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, read_predictions
from medpretrain3d.store.grid import Grid
from medpretrain3d.study.conditions import Condition
from medpretrain3d.study.gallery import telling_cases
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.run import Run
from medpretrain3d.visualization.slice_stack import read_slice_index

FURTHER_DETECTIONS = 6
"""Of the detections of an arm, the best N + 6 are shown, N being the number of objects."""


@dataclass(frozen=True)
class ViewedCase:
    """One case: its name, why it is shown, and what the page draws."""

    title: str
    why: str
    data: dict[str, Any]


def viewed_cases(conditions: Sequence[Condition], scorer: Scorer) -> list[ViewedCase]:
    """Return the cases of one place that are worth a look, with what one run of each arm found in them.

    Raises:
        UserError: a file is damaged.
    """
    shown = []
    indexes = {run: read_slice_index(run.folder / "test" / "slices") for one in conditions for run in one.runs}
    for case, (why, runs) in telling_cases(conditions, lambda run, case: case in indexes[run]).items():
        first = runs[0]
        grid, indices = indexes[first][case]
        targets = scorer.targets([first])
        wanted = next(one for one in targets.cases if one.case == case)
        uri, size = _picture(first.folder / "test" / "slices" / f"{case}.png")
        scale = np.array(size) / (len(indices) * grid.shape[1], grid.shape[2])  # pixels per voxel along H and W
        arms = [
            _found(one, run, case, len(wanted.labels), grid, scale) for one, run in zip(conditions, runs, strict=True)
        ]
        data = {
            "uri": uri,
            "size": [size[0] // len(indices), size[1]],
            "slices": list(indices),
            "depth": grid.shape[0],
            "classes": list(targets.classes),
            "truth": _drawn(wanted, grid, scale),
            "arms": arms,
        }
        shown.append(ViewedCase(f"{conditions[0].place.network}: {case}", why, data))
    return shown


def _found(one: Condition, run: Run, case: str, num_objects: int, grid: Grid, scale: np.ndarray) -> dict[str, Any]:
    file = read_predictions(run.folder / "test" / "predictions.json")
    found = next((each for each in file.cases if each.case == case), None)
    if found is None:
        raise UserError(f"{file.path}: has no case '{case}'; repeat the run")
    best = np.argsort(-found.scores, kind="stable")[: num_objects + FURTHER_DETECTIONS]
    boxes = [
        [*box, round(float(found.scores[place]), 3)]
        for place, box in zip(best.tolist(), _drawn(found, grid, scale, best), strict=True)
    ]
    return {"name": one.arm, "arm": one.color, "score": round(run.case_scores[case], 3), "found": boxes}


def _drawn(
    one: PredictedCase | TargetCase, grid: Grid, scale: np.ndarray, chosen: np.ndarray | None = None
) -> list[list[float]]:
    """Return boxes as first and last place along D, left, top, right, bottom in pixels of a slice, and the label."""
    rows = np.arange(len(one.labels)) if chosen is None else chosen
    if one.boxes_vox is not None and one.grid is not None:
        boxes = one.grid.map_boxes(one.boxes_vox[rows], grid)
    else:
        boxes = grid.boxes_from_lps_mm(one.boxes[rows])
    d0, h0, w0, d1, h1, w1 = boxes.T
    y, x = scale
    columns = np.stack([d0, d1, w0 * x, h0 * y, w1 * x, h1 * y], axis=1).round(1)
    return [[*row, int(label)] for row, label in zip(columns.tolist(), one.labels[rows], strict=True)]


def _picture(path: Path) -> tuple[str, tuple[int, int]]:
    """Return slices as a `data:` address, and their height and width in pixels.

    Raises:
        UserError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            file, size = io.BytesIO(), (picture.height, picture.width)
            picture.convert("L").save(file, "WEBP", quality=70, method=4)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: is no picture; take the folder away, the page shows no slices then") from error
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}", size
