"""The true boxes of a store, in the form that `medpretrain3d evaluate` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.data.store import Store


def targets_json(store: Store, case_ids: Sequence[str]) -> dict[str, Any]:
    """The targets document of some cases: boxes in LPS mm, and in voxels of each file's own array."""
    return {
        "format": "medpretrain3d-targets",
        "version": 1,
        "classes": list(store.classes),
        "frame": "lps_mm",
        "axes": "x0,y0,z0,x1,y1,z1",
        "targets": [_entry(store, case_id) for case_id in case_ids],
    }


def _entry(store: Store, case_id: str) -> dict[str, Any]:
    case = store.case(case_id)
    boxes = case.boxes.astype(np.float64)
    boxes_vox = case.grid.map_boxes(boxes, case.source_grid)
    return {
        "case": case_id,
        "boxes": np.round(case.source_grid.boxes_to_lps_mm(boxes_vox), 4).tolist(),
        "labels": case.labels.tolist(),
        "boxes_vox": np.round(boxes_vox, 4).tolist(),
    }
