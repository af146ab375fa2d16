"""slicer/<case>.mrk.json: one ROI per box for 3D Slicer, which opens them in place over the scan, oblique ones too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import CASE_WRITERS
from medpretrain3d.names import plain_name

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# Okabe and Ito's palette without black: told apart by colour-blind readers too.
COLORS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.00, 0.45, 0.70),
    (0.84, 0.37, 0.00),
    (0.80, 0.47, 0.65),
)


def markups_json(classes: Sequence[str], prediction: Prediction) -> dict[str, Any]:
    """Return the markups document of one scan.

    A ROI lies along the axes of the scan's voxels, so the box is the one that was found, not the larger hull that
    LPS axes need around it where the scan is oblique.
    """
    spacing_mm = np.array(prediction.grid.spacing_mm)
    axes = prediction.grid.affine_lps[:3, :3] / spacing_mm  # columns: the voxel axes as unit vectors
    # Slicer wants a rotation: of a left-handed grid one axis turns round, which leaves the box as it is.
    axes = axes * [1, 1, np.sign(np.linalg.det(axes))]
    return {
        "@schema": SCHEMA,
        "markups": [
            _roi(prediction, row, classes, axes.reshape(-1).tolist(), spacing_mm) for row in range(len(prediction))
        ],
    }


@CASE_WRITERS.register("slicer")
def write_slicer(folder: Path, classes: Sequence[str], prediction: Prediction) -> None:
    """Write `slicer/<case>.mrk.json`.

    Raises:
        UserError: the folder cannot be written.
    """
    document = json_text(markups_json(classes, prediction), indent=1)
    write_text(folder / "slicer" / f"{plain_name(prediction.case, 'case id')}.mrk.json", document)


def _roi(
    prediction: Prediction, row: int, classes: Sequence[str], orientation: list[float], spacing_mm: np.ndarray
) -> dict[str, Any]:
    low, high = prediction.boxes_vox[row, :3], prediction.boxes_vox[row, 3:]
    affine = prediction.grid.affine_lps
    center = (affine[:3, :3] @ ((low + high) / 2 - 0.5) + affine[:3, 3]).round(4).tolist()  # edge e is at index e - 0.5
    label = int(prediction.labels[row])
    name = f"{classes[label]} {prediction.scores[row]:.2f}"
    return {
        "name": name,
        "type": "ROI",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "roiType": "Box",
        "center": center,
        "orientation": orientation,
        "size": ((high - low) * spacing_mm).round(4).tolist(),
        "insideOut": False,
        "controlPoints": [{"id": "1", "label": name, "position": center, "positionStatus": "defined"}],
        "display": {
            "selectedColor": list(COLORS[label % len(COLORS)]),
            "propertiesLabelVisibility": True,
            "pointLabelsVisibility": False,
            "handlesInteractive": False,
        },
    }
