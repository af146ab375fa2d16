"""A case on a page: slices as one small picture, and boxes on them as numbers, which the page draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.store.grid import Grid
from medpretrain3d.visualization.box_pictures import Volume
from medpretrain3d.visualization.drawing import cut_slices, with_seen_points
from medpretrain3d.visualization.slice_stack import slice_stack

NUM_SLICES, NUM_SPREAD = 12, 8
"""Of a case that is looked at alone: those that cut objects, and further ones for the rest of the scan."""


@dataclass(frozen=True)
class ViewedCase:
    """One case: its name, why it is shown, and what the page draws."""

    title: str
    why: str
    data: dict[str, Any]


def viewed_case(
    why: str,
    image: Volume,
    grid: Grid,
    found: PredictedCase,
    wanted: TargetCase | None,
    classes: Sequence[str],
    score: float | None = None,
) -> ViewedCase:
    """Return a case whose slices cut as many objects as possible, or as many detections where nobody knows these.

    Args:
        why: it is shown.
        image: (D, H, W) in [-1, 1], canonical.
        grid: of the image.
        found: what was found in it.
        wanted: what was to be found; None where nobody knows.
        classes: names of the labels.
        score: of the case.
    """
    truth = TargetCase(found.case, np.zeros((0, 6)), np.zeros(0, int)) if wanted is None else wanted
    shown = found if wanted is None or not len(wanted.labels) else wanted
    stack = slice_stack(image, grid, boxes_in(shown, grid), NUM_SLICES, num_spread=NUM_SPREAD)
    size = stack.pixels.shape
    scale = np.array(size) / (len(stack.indices) * grid.shape[1], grid.shape[2])
    boxes = [
        [*box, round(float(one), 3)] for box, one in zip(drawn_boxes(found, grid, scale), found.scores, strict=True)
    ]
    data = {
        "uri": slices_uri(Image.fromarray(stack.pixels)),
        "size": [size[0] // len(stack.indices), size[1]],
        "slices": list(stack.indices),
        "depth": grid.shape[0],
        "classes": list(classes),
        "truth": drawn_boxes(truth, grid, scale),
        "isTruthKnown": wanted is not None,
        "arms": [{"name": "detections", "arm": 1, "score": score, "found": boxes}],
    }
    return ViewedCase(found.case, why, data)


def boxes_in(one: PredictedCase | TargetCase, grid: Grid, chosen: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Return boxes (N, 6) of a case in voxels of a grid, points as cubes."""
    rows = np.arange(len(one.labels)) if chosen is None else chosen
    if one.boxes_vox is not None and one.grid is not None:
        return with_seen_points(one.grid.map_boxes(one.boxes_vox[rows], grid))
    return with_seen_points(grid.boxes_from_lps_mm(one.boxes[rows]))


def drawn_boxes(
    one: PredictedCase | TargetCase, grid: Grid, scale: NDArray[Any], chosen: NDArray[Any] | None = None
) -> list[list[float]]:
    """Return boxes as first slice and the one behind the last, left, top, right, bottom in pixels, and the label.

    Args:
        one: a case.
        grid: of the volume that the slices are of.
        scale: pixels per voxel along H and W.
        chosen: which boxes; None for all.
    """
    d0, h0, w0, d1, h1, w1 = boxes_in(one, grid, chosen).T
    y, x = scale
    columns = np.stack([*cut_slices(d0, d1), w0 * x, h0 * y, w1 * x, h1 * y], axis=1).round(1)
    labels = one.labels if chosen is None else one.labels[chosen]
    return [[*row, int(label)] for row, label in zip(columns.tolist(), labels, strict=True)]


def slices_uri(picture: Image.Image) -> str:
    """Return a picture as a `data:` address."""
    file = io.BytesIO()
    picture.convert("L").save(file, "WEBP", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
