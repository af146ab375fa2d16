"""The true boxes of a store, in the form that `medpretrain3d evaluate` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medpretrain3d.store.store import Case, Store

FORMAT, VERSION = "medpretrain3d-targets", 1


def targets_json(store: Store, case_ids: Sequence[str]) -> dict[str, Any]:
    """The targets document of some cases: boxes and ignore regions in LPS mm and in voxels of each file; its grid.

    Patients are named by the pseudonyms of the store, where it knows them.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(store.classes),
        "frame": "lps_mm",
        "axes": "x0,y0,z0,x1,y1,z1",
        "targets": [_entry(store, case_id) for case_id in case_ids],
    }


def _entry(store: Store, case_id: str) -> dict[str, Any]:
    case = store.case(case_id)
    boxes_vox, boxes_lps_mm = _in_file(case, case.boxes)
    entry = {
        "case": case_id,
        "boxes": boxes_lps_mm,
        "labels": case.labels.tolist(),
        "boxes_vox": boxes_vox,
        "grid": case.source_grid.to_json(),
    }
    if (patient := store.entries[case_id]["patient"]) is not None:
        entry["patient"] = patient
    if len(case.ignore_boxes):
        entry["ignore_vox"], entry["ignore"] = _in_file(case, case.ignore_boxes)
    return entry


def _in_file(case: Case, boxes: np.ndarray) -> tuple[list[list[float]], list[list[float]]]:
    """Return boxes (N, 6) of the store's grid in voxels of the file's own array, and in LPS mm."""
    boxes_vox = case.grid.map_boxes(boxes.astype(np.float64), case.source_grid)
    return np.round(boxes_vox, 4).tolist(), np.round(case.source_grid.boxes_to_lps_mm(boxes_vox), 4).tolist()
