"""Whether single slices form a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.data.quarantine import Unusable

MAX_UNEVENNESS = 0.1
"""A slice may lie this share of a step from its place on the regular grid: positions are rounded on export."""
MAX_SHIFT_PIXELS = 0.5
"""Over the whole stack slices may be shifted in their plane by this; more is a tilted gantry."""


def regular_order(
    path: Path, corners: Sequence[np.ndarray], axes: np.ndarray, are_equal: Callable[[int, int], bool]
) -> tuple[list[int], np.ndarray]:
    """Order slices along their normal; nothing is filled in or interpolated.

    Args:
        path: of the series, for messages.
        corners: (3,) LPS mm of the first pixel of each slice.
        axes: (3, 2) steps along the two indices of a slice in LPS mm.
        are_equal: whether two slices hold the same pixels; of copies at one place the first is taken.

    Returns:
        Indices of the slices from the lowest on, and the affine (4, 4) from (column, row, slice) to LPS mm.

    Raises:
        Unusable: fewer than two places, different slices at one place, missing or unevenly spaced slices, or a tilted
            gantry.
    """
    directions = axes / np.linalg.norm(axes, axis=0)
    normal = np.cross(directions[:, 0], directions[:, 1])
    heights = np.array(corners) @ normal
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    kept: list[int] = []
    for index in order:
        if kept and heights[index] - heights[kept[-1]] < 1e-3:
            if not are_equal(index, kept[-1]):
                raise Unusable(
                    f"{path}: different slices at one place (phases, echoes or reconstructions?); give each a series",
                    "slices",
                )
        else:
            kept.append(index)
    if len(kept) < 2:
        raise Unusable(f"{path}: has slices at {len(kept)} place, wanted a stack of two or more", "slices")
    _check_even(path, heights[kept])
    first, last = corners[kept[0]], corners[kept[-1]]
    shift_mm = (last - first) - normal * ((last - first) @ normal)
    if np.linalg.norm(shift_mm) > MAX_SHIFT_PIXELS * np.linalg.norm(axes, axis=0).min():
        angle = np.degrees(np.arctan2(np.linalg.norm(shift_mm), (last - first) @ normal))
        raise Unusable(
            f"{path}: gantry tilted by {angle:.1f} degrees: slices are shifted against each other; "
            "straighten it first, e.g. by dcm2niix",
            "gantry tilt",
        )
    affine = np.eye(4)
    affine[:3, :2] = axes
    affine[:3, 2] = (last - first) / (len(kept) - 1)
    affine[:3, 3] = first
    return kept, affine


def _check_even(path: Path, heights: np.ndarray) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    missing = int(np.rint(steps[steps > 1.5 * usual] / usual - 1).sum())
    whole = np.abs(steps / usual - np.rint(steps / usual)).max() < MAX_UNEVENNESS
    if missing and whole:
        raise Unusable(
            f"{path}: {missing} slices are missing: steps of {usual:.3g} mm, and up to {steps.max():.3g} mm; copy or "
            "export them again",
            "slices",
        )
    regular = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - regular).max() > MAX_UNEVENNESS * usual:
        raise Unusable(
            f"{path}: slices are unevenly spaced, {steps.min():.3g} to {steps.max():.3g} mm apart; give a "
            "reconstruction of even steps",
            "slices",
        )
