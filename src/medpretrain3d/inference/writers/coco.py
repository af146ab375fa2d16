"""predictions.coco.json: the COCO detection format with a third axis.

COCO knows no third axis. As in other 3D uses of it, an image also has a `depth`, a `bbox` is its least corner and its
extent, `[i, j, k, di, dj, dk]` in voxels of the file's own array order, and an `area` is a volume in voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.atomic import write_text
from medpretrain3d.boxes import box_size
from medpretrain3d.documents import json_text
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.writer import RUN_WRITERS


def predictions_coco(classes: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the COCO document of all scans; ids count from 1, and `width`, `height`, `depth` are the axes i, j, k."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, prediction in enumerate(predictions, start=1):
        width, height, depth = prediction.grid.shape
        images.append(
            {
                "id": image_id,
                "file_name": prediction.file,
                "case": prediction.case,
                "width": width,
                "height": height,
                "depth": depth,
                "affine_lps": prediction.grid.affine_lps.tolist(),
            }
        )
        extents = box_size(prediction.boxes_vox)
        for box, extent, score, label in zip(
            prediction.boxes_vox, extents, prediction.scores, prediction.labels, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": np.round([*box[:3], *extent], 4).tolist(),
                    "area": round(float(extent.prod()), 4),
                    "iscrowd": 0,
                    "score": float(f"{score:.9g}"),
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


@RUN_WRITERS.register("coco")
def write_coco(folder: Path, classes: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Write `predictions.coco.json`.

    Raises:
        UserError: the folder cannot be written.
    """
    write_text(folder / "predictions.coco.json", json_text(predictions_coco(classes, predictions)))
