"""Objects without a size: a point is a box whose two corners are one, in every file and frame."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.grid import Spacing

POINT_RADIUS_MM = 5.0
"""Distance within which a point counts as found: that of a nodule of unknown diameter in LUNA16."""


def are_points(boxes: np.ndarray) -> np.ndarray:
    """Return whether each box (N, 6) is a point: (N,) bool."""
    result: np.ndarray = (boxes[:, :3] == boxes[:, 3:]).all(axis=1)
    return result


def count_points(boxes_of_cases: Iterable[np.ndarray]) -> tuple[int, int]:
    """Return how many objects are points, and how many objects there are, of the boxes (N, 6) of each case."""
    marks = [are_points(boxes) for boxes in boxes_of_cases]
    return sum(int(one.sum()) for one in marks), sum(len(one) for one in marks)


def near_points(boxes: np.ndarray, objects: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return which boxes have their center within `POINT_RADIUS_MM` of which objects that are points: (N, G) bool.

    Args:
        boxes: (N, 6) in voxels.
        objects: (G, 6) in the same voxels; those with a size are near nothing.
        spacing_mm: of the voxels.
    """
    middles, points = ((one[:, :3] + one[:, 3:]) / 2 * spacing_mm for one in (boxes, objects))
    distance_mm = np.linalg.norm(middles[:, None] - points[None], axis=2)  # (N, G)
    result: np.ndarray = (distance_mm < POINT_RADIUS_MM) & are_points(objects)
    return result


def refuse_points(num_points: int, num_objects: int, what: str, advice: str) -> None:
    """Refuse objects without a size where one is needed.

    Args:
        num_points: objects that are points.
        num_objects: of these.
        what: needs a size, with its verb.
        advice: what to do.

    Raises:
        UserError: there are points.
    """
    if num_points:
        raise UserError(
            f"{num_points} of {num_objects} objects are points, which have no size, and {what} needs one; {advice}"
        )
