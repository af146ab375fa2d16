"""The orders in which programs write the six numbers of a box, by MONAI's names."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from medpretrain3d.errors import UserError

BoxMode = Literal["xyzxyz", "xxyyzz", "xyxyzz", "xyzwhd", "cccwhd"]
MODE_NAMES: dict[str, BoxMode] = {
    "CornerCornerModeTypeA": "xyzxyz",
    "StandardMode": "xyzxyz",
    "CornerCornerModeTypeB": "xxyyzz",
    "CornerCornerModeTypeC": "xyxyzz",
    "CornerSizeMode": "xyzwhd",
    "CenterSizeMode": "cccwhd",
}
"""MONAI's classes; its standard mode is that of two corners."""
_LOW_THEN_HIGH = {"xyzxyz": (0, 1, 2, 3, 4, 5), "xxyyzz": (0, 2, 4, 1, 3, 5), "xyxyzz": (0, 1, 4, 2, 3, 5)}


def box_mode(name: str) -> BoxMode:
    """Return the mode of a name: one of `BoxMode`, or MONAI's class of it.

    Raises:
        UserError: it is none.
    """
    known: dict[str, BoxMode] = {**{one: one for one in get_args(BoxMode)}, **MODE_NAMES}
    if name not in known:
        raise UserError(f"box mode '{name}': wanted one of {', '.join(known)}")
    return known[name]


def corners(boxes: np.ndarray, mode: BoxMode) -> np.ndarray:
    """Return boxes (N, 6) of any mode as low corner, then high corner.

    Args:
        boxes: two corners, a corner and the edges (`xyzwhd`), or the center and the edges (`cccwhd`).
        mode: of the boxes.
    """
    if mode in _LOW_THEN_HIGH:
        return boxes[:, _LOW_THEN_HIGH[mode]]
    place, edges = boxes[:, :3], boxes[:, 3:]
    low = place if mode == "xyzwhd" else place - edges / 2
    return np.concatenate([low, low + edges], axis=1)
