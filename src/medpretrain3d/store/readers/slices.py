"""Whether single slices form a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medpretrain3d.store.readers.scan import MAX_SHIFT_VOX, checked_affine
from medpretrain3d.store.skipped_cases import InvalidCaseError

MAX_UNEVENNESS = 0.1
"""A slice may lie this share of a step from its place on the regular grid: positions are rounded on export."""
MAX_TURN = 1e-3
"""Per pixel, a slice may differ from the first by this share of a pixel in spacing and direction: 0.5 pixels of 512."""


def regular_order(
    path: Path,
    corners: Sequence[np.ndarray],
    axes: Sequence[np.ndarray],
    size: tuple[int, int],
    are_equal: Callable[[int, int], bool],
    is_tilt_allowed: bool = False,
) -> tuple[list[int], np.ndarray]:
    """Return order slices along their normal; nothing is filled in or interpolated.

    Args:
        path: of the series, for messages.
        corners: (3,) LPS mm of the first pixel of each slice.
        axes: of each slice, (3, 2) steps along its two indices in LPS mm.
        size: pixels of a slice along these.
        are_equal: whether two slices hold the same pixels; of copies at one place the first is taken.
        is_tilt_allowed: whether the stack may be sheared by a tilted gantry.

    Returns:
        Indices of the slices from the lowest on, and the affine (4, 4) from (column, row, slice) to LPS mm.

    Raises:
        InvalidCaseError: slices of another spacing or orientation, fewer than two places, different slices at one
            place, missing or unevenly spaced slices, slices shifted in their plane, or a tilted gantry.
    """
    _check_parallel(path, axes)
    directions = axes[0] / np.linalg.norm(axes[0], axis=0)
    normal = np.cross(directions[:, 0], directions[:, 1])
    heights = np.array(corners) @ normal
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    kept: list[int] = []
    for index in order:
        if kept and heights[index] - heights[kept[-1]] < 1e-3:
            if not are_equal(index, kept[-1]):
                raise InvalidCaseError(
                    f"{path}: different slices at one place (phases, echoes or reconstructions?); give each a series",
                    "slices",
                )
        else:
            kept.append(index)
    if len(kept) < 2:
        raise InvalidCaseError(f"{path}: has slices at {len(kept)} place, wanted a stack of two or more", "slices")
    _check_even(path, heights[kept])
    first, last = corners[kept[0]], corners[kept[-1]]
    affine = np.eye(4)
    affine[:3, :2] = axes[0]
    affine[:3, 2] = (last - first) / (len(kept) - 1)
    affine[:3, 3] = first
    checked_affine(path, affine, (*size, len(kept)), is_tilt_allowed)
    _check_straight(path, np.array(corners)[kept], affine)
    return kept, affine


def _check_parallel(path: Path, axes: Sequence[np.ndarray]) -> None:
    step_mm = np.linalg.norm(axes[0], axis=0)
    turned = [one for one in axes if np.linalg.norm(one - axes[0], axis=0).max() > MAX_TURN * step_mm.min()]
    if turned:
        lengths_mm = np.linalg.norm(turned[0], axis=0)
        is_spacing = np.abs(lengths_mm - step_mm).max() > MAX_TURN * step_mm.min()
        what = "pixel spacing" if is_spacing else "orientation"
        raise InvalidCaseError(
            f"{path}: {len(turned)} of {len(axes)} slices have another {what} than the first; give each stack a "
            "series, without localizers",
            "slices",
        )


def _check_straight(path: Path, corners: np.ndarray, affine: np.ndarray) -> None:
    """Every slice lies where the grid has it, within its plane."""
    regular = affine[:3, 3] + np.arange(len(corners))[:, None] * affine[:3, 2]
    pixels = np.linalg.lstsq(affine[:3, :2], (corners - regular).T, rcond=None)[0]  # (2, slices)
    num_shifted = int((np.abs(pixels).max(axis=0) > MAX_SHIFT_VOX).sum())
    if num_shifted:
        raise InvalidCaseError(
            f"{path}: {num_shifted} of {len(corners)} slices are shifted in their plane, by up to "
            f"{np.abs(pixels).max():.3g} pixels; give each stack a series",
            "slices",
        )


def _check_even(path: Path, heights: np.ndarray) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    missing = int(np.rint(steps[steps > 1.5 * usual] / usual - 1).sum())
    whole = np.abs(steps / usual - np.rint(steps / usual)).max() < MAX_UNEVENNESS
    if missing and whole:
        raise InvalidCaseError(
            f"{path}: {missing} slices are missing: steps of {usual:.3g} mm, and up to {steps.max():.3g} mm; copy or "
            "export them again",
            "slices",
        )
    regular = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - regular).max() > MAX_UNEVENNESS * usual:
        raise InvalidCaseError(
            f"{path}: slices are unevenly spaced, {steps.min():.3g} to {steps.max():.3g} mm apart; give a "
            "reconstruction of even steps",
            "slices",
        )
