"""Test cases on a page: slices as small pictures, and the boxes of every arm on them as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import read_predictions
from medpretrain3d.store.grid import Grid
from medpretrain3d.study.conditions import Condition
from medpretrain3d.study.gallery import telling_cases
from medpretrain3d.study.paired_scores import Scorer
from medpretrain3d.study.run import Run
from medpretrain3d.visualization.slice_stack import read_slice_index
from medpretrain3d.visualization.viewed_case import ViewedCase, drawn_boxes, slices_uri

FURTHER_DETECTIONS = 6
"""Of the detections of an arm, the best N + 6 are shown, N being the number of objects."""


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
            "truth": drawn_boxes(wanted, grid, scale),
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
        for place, box in zip(best.tolist(), drawn_boxes(found, grid, scale, best), strict=True)
    ]
    return {"name": one.arm, "arm": one.color, "score": round(run.case_scores[case], 3), "found": boxes}


def _picture(path: Path) -> tuple[str, tuple[int, int]]:
    """Return slices as a `data:` address, and their height and width in pixels.

    Raises:
        UserError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            return slices_uri(picture), (picture.height, picture.width)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: is no picture; take the folder away, the page shows no slices then") from error
