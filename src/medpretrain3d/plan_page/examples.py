"""Slices of some training cases with their boxes, as pictures inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from medpretrain3d.lines import counted
from medpretrain3d.store.store import Case, Store
from medpretrain3d.visualization.box_pictures import boxes_on_slices

NUM_EXAMPLES = 4
LUNG_HU = -400
"""Objects whose middle is darker, or that are mostly surrounded by what is, are shown in a lung window."""
WINDOWS = {"lung": (-1350.0, 150.0), "soft tissue": (-160.0, 240.0)}
MARGIN_VOX = 2


@dataclass(frozen=True)
class Example:
    """A picture as a `data:` URI, and what it shows."""

    title: str
    uri: str


def example_pictures(store: Store) -> list[Example]:
    """Return pictures of the training cases that together show most classes and objects; the same for the same store.

    Raises:
        UserError: a case is damaged.
    """
    examples = []
    for case_id in _chosen(store):
        case = store.case(case_id)
        image, window = _shown(case)
        none: tuple[Any, Any, Any] = (np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))
        picture = boxes_on_slices(
            image, case.grid.spacing_mm, case.boxes, case.labels, *none, store.classes, max_panels=3
        )
        title = f"{case_id}: {counted(len(case.labels), 'object')}, {window}"
        examples.append(Example(title, _uri(np.asarray(picture))))
    return examples


def _chosen(store: Store) -> list[str]:
    """Cases in turn: each shows most objects of classes that were shown least before it."""
    waiting = {
        case_id: np.array(store.entries[case_id]["counts"])
        for case_id in store.splits.get("train", ())
        if store.entries[case_id]["num_objects"]
    }
    shown, chosen = np.zeros(max(len(store.classes), 1)), list[str]()
    while waiting and len(chosen) < NUM_EXAMPLES:
        best = max(waiting, key=lambda case_id: (float((np.minimum(waiting[case_id], 3) / (1 + shown)).sum()), case_id))
        shown += waiting.pop(best)
        chosen.append(best)
    return chosen


def _shown(case: Case) -> tuple[np.ndarray, str]:
    """Return the first channel (D, H, W) in [-1, 1], and the name of the window."""
    image = case.read_image()[0]
    if case.unit == "hu":
        name = "lung" if _around(case, image) < LUNG_HU else "soft tissue"
        low, high = WINDOWS[name]
        name = f"{name} window"
    else:
        low, high = case.statistics[0].low, case.statistics[0].high
        name = "percentiles 0.5 to 99.5"
    half = max((high - low) / 2, 1e-6)
    return ((image.astype(np.float32) - (low + high) / 2) / half).clip(-1, 1), name


def _around(case: Case, image: np.ndarray) -> float:
    """Return the median over objects of the median value in and around each box."""
    values = []
    for box in case.boxes:
        low = np.clip(np.floor(box[:3]).astype(int) - MARGIN_VOX, 0, None)
        high = np.ceil(box[3:]).astype(int) + MARGIN_VOX
        values.append(float(np.median(image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])))
    return float(np.median(values))


def _uri(rgb: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, format="WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
