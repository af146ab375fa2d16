"""DICOM: the slices of one series, or the frames of one object, put together. Needs the extra `dicom`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers.declared_header import MAX_BYTES, MAX_DEFLATE_RATIO
from medpretrain3d.store.readers.dicom_series import series_of
from medpretrain3d.store.readers.dicom_slice import PixelReader, SliceHead, heads_of
from medpretrain3d.store.readers.gantry_tilt import straightened
from medpretrain3d.store.readers.scan import Scan
from medpretrain3d.store.readers.slices import regular_order
from medpretrain3d.store.skipped_cases import InvalidCaseError

HU_TYPES = ("", "HU", "US")
"""Rescale types of a CT in HU; `US`, unspecified, is what some scanners write."""


def read_dicom(path: Path, series: str = "", straighten: bool = False) -> Scan:
    """Read the series in a folder, or the one that a file belongs to; each slice rescaled by its own header.

    Args:
        path: the folder or file.
        series: which one of several in the folder: its identifier, its key or its description; empty where there is
            one.
        straighten: whether slices that a tilted gantry shifted against each other are moved back, which interpolates
            within each slice; else they are refused.

    Raises:
        MissingLibrary: SimpleITK, or pydicom where a file holds several frames.
        InvalidCaseError: no series or several, unreadable or colored slices, slices that are missing, doubled, unevenly
            spaced, shifted or turned against each other, or of several echoes, times, stacks or reconstructions.
    """
    found = series_of(path, series)
    heads = [head for file in found.files for head in heads_of(file)]
    size = heads[0].size
    different = sum(head.size != size for head in heads)
    if different:
        raise InvalidCaseError(
            f"{path}: {different} of {len(heads)} slices are not of {size[0]} x {size[1]} pixels; remove localizers "
            "from the series",
            "slices",
        )
    num_bytes = 4 * size[0] * size[1] * len(heads)
    stored = sum(file.stat().st_size for file in found.files)
    if num_bytes > MAX_BYTES or num_bytes > 4 * stored * MAX_DEFLATE_RATIO:
        raise InvalidCaseError(
            f"{path}: headers claim {len(heads)} slices of {size[0]} x {size[1]} pixels in {stored:,} bytes", "claim"
        )
    _check_alike(path, heads)
    corners, axes = [head.corner for head in heads], [head.axes for head in heads]
    pixels = PixelReader()
    order, affine = regular_order(path, corners, axes, size, _same_pixels(heads), is_tilt_allowed=straighten)
    slices = [pixels.read(heads[index]) for index in order]
    voxels = np.stack(slices, axis=-1)[None]
    tilted = Grid((size[0], size[1], len(order)), affine)
    if straighten:
        voxels, affine = straightened(voxels, affine)
    tilted_grid = None if np.array_equal(affine, tilted.affine_lps) else tilted
    return Scan(path, voxels, affine, heads[0].message["modalities"], _not_hu(heads[0]), tilted_grid)


def _check_alike(path: Path, heads: Sequence[SliceHead]) -> None:
    """Refuse slices that are of several volumes, whatever their places say."""
    parts = "slices" if heads[0].frame is None else "frames"
    for name in heads[0].message:
        values = sorted({head.message.get(name, "") for head in heads} - {""})
        if len(values) > 1:  # of the text only how often it differs is told: it is a header's
            raise InvalidCaseError(
                f"{path}: {parts} of {len(values)} different {name} in one series; give each a series", "slices"
            )
    for what, count in (
        ("are localizers", sum(head.is_localizer for head in heads)),
        ("have no rescale slope or intercept", sum(not head.is_rescaled for head in heads)),
    ):
        if 0 < count < len(heads):
            raise InvalidCaseError(
                f"{path}: {count} of {len(heads)} slices {what}; remove them from the series", "slices"
            )


def _not_hu(head: SliceHead) -> str:
    """Why values are not known to be HU."""
    if not head.is_rescaled:
        return "has no rescale slope and intercept, so nothing says how its values become HU"
    return "" if head.message["rescale types"] in HU_TYPES else "its rescale type says that its values are not HU"


def _same_pixels(heads: Sequence[SliceHead]) -> Any:
    pixels = PixelReader()
    return lambda one, other: np.array_equal(pixels.read(heads[one]), pixels.read(heads[other]))
