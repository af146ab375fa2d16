"""DICOM SEG: the segments of a segmentation object, placed on a scan's grid frame by frame."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medpretrain3d.ingest.cut_out import CutOut, cut_out_at, joined
from medpretrain3d.store.grid import SAME_PLACE_VOX, Grid
from medpretrain3d.store.readers.dicom_frames import functional_group, plane_of
from medpretrain3d.store.readers.dicom_header import damage_named, read_header
from medpretrain3d.store.skipped_cases import InvalidCaseError, UndecodablePixelsError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_OUTSIDE = "frames of segments that reach outside of the scan, where they were cut"
_SHARE = "segments of shares, of which a voxel's half or more counts"
_MOVED = "frames on slices of a tilted gantry, moved with them to the nearest voxel"


@dataclass(frozen=True)
class Segment:
    """A segment of a segmentation object: its number and its label."""

    number: int
    name: str


def segments_of(header: Dataset) -> list[Segment]:
    """Return the segments that an object declares; the background of a label map (number 0) is none."""
    found = []
    for one in header.get("SegmentSequence") or []:
        number = int(one.get("SegmentNumber") or 0)
        name = unicodedata.normalize("NFC", " ".join(str(one.get("SegmentLabel") or "").split()))
        if number:
            found.append(Segment(number, name or f"segment {number}"))
    return found


def read_segments(
    path: Path, grid: Grid, is_straightened: bool = False, wanted: Container[int] | None = None
) -> tuple[dict[int, CutOut], Counter[str]]:
    """Return the mask of each segment that has a voxel, on the scan's grid.

    Frames may be any of the scan's slices, in any order and direction; each has to lie on a slice.

    Args:
        path: the file.
        grid: of the scan's file.
        is_straightened: whether slices of a tilted gantry were moved within their planes, each by a part of a pixel
            beside whole ones, and frames on them are moved along, to the nearest pixel.
        wanted: numbers of the segments that are returned; None is all.

    Raises:
        MissingLibrary: pydicom.
        InvalidCaseError: pixels that cannot be decoded, a frame without a place, or on another grid than the scan.
    """
    header = read_header(path, is_with_pixels=True)
    with damage_named(path):
        return _placed(path, header, grid, is_straightened, wanted)


def _placed(
    path: Path, header: Dataset, grid: Grid, is_straightened: bool, wanted: Container[int] | None
) -> tuple[dict[int, CutOut], Counter[str]]:
    try:
        pixels = np.atleast_3d(header.pixel_array)
    except Exception as error:  # of many types, and its text may quote the header
        raise UndecodablePixelsError(f"{path}: its pixels cannot be decoded; export it uncompressed") from error
    if int(header.get("NumberOfFrames") or 1) == 1:
        pixels = header.pixel_array[None]
    parts: dict[int, list[CutOut]] = defaultdict(list)
    seen: set[int] = set()
    remarks: Counter[str] = Counter()
    is_label_map = header.get("SegmentationType") == "LABELMAP"
    is_share = header.get("SegmentationType") == "FRACTIONAL"
    half = int(header.get("MaximumFractionalValue") or 1) / 2 if is_share else 0.5
    to_vox = np.linalg.inv(grid.affine_lps)
    for number, plane in enumerate(pixels):
        for segment, is_inside in _parts(path, header, number, plane, is_label_map, half):
            row, column = np.nonzero(is_inside)
            corner, axes = plane_of(path, header, number)
            first, steps, is_moved = _on_grid(path, to_vox, corner, axes, plane.shape, grid, is_straightened)
            index = first + np.stack([column, row], axis=1) @ steps.T
            remarks[_MOVED] += int(is_moved)
            is_there = ((index >= 0) & (index < grid.shape)).all(axis=1)
            remarks[_OUTSIDE] += int(not is_there.all())
            seen.add(segment)
            if is_there.any() and (wanted is None or segment in wanted):
                parts[segment].append(cut_out_at(index[is_there], grid.shape))
    remarks[_SHARE] += len(seen) if is_share else 0
    return {number: joined(parts.pop(number)) for number in sorted(parts)}, +remarks


def _parts(
    path: Path, header: Any, number: int, plane: np.ndarray, is_label_map: bool, half: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Segments of a frame with the pixels of each."""
    if is_label_map:
        for segment in np.unique(plane[plane > 0]).tolist():
            yield int(segment), plane == segment
        return
    identified = functional_group(header, number, "SegmentIdentificationSequence")
    if identified is None or identified.get("ReferencedSegmentNumber") is None:
        raise InvalidCaseError(f"{path}: frame {number + 1} names no segment; export it again", "annotation")
    if plane.any():
        yield int(identified.ReferencedSegmentNumber), plane >= half


def _on_grid(
    path: Path,
    to_vox: np.ndarray,
    corner: np.ndarray,
    axes: np.ndarray,
    shape: tuple[int, ...],
    grid: Grid,
    is_straightened: bool,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the voxel (3,) of a frame's first pixel, the steps (3, 2) along its columns and rows, and if it was moved.

    Raises:
        InvalidCaseError: its pixels are not those of a slice of the scan, along whichever axes.
    """
    steps = to_vox[:3, :3] @ axes  # (3, 2) in voxels
    start = to_vox[:3, :3] @ corner + to_vox[:3, 3]
    whole, first = np.rint(steps).astype(int), np.rint(start).astype(int)
    off = np.abs(steps - whole) @ np.array([shape[1], shape[0]])
    between = np.abs(start - first)
    is_across = np.abs(whole).sum(axis=1) == 0  # the axis along which slices are stacked
    off += np.where(is_straightened & ~is_across, 0, between)
    is_step = (np.abs(whole).sum(axis=0) == 1).all()
    if not is_step or off.max() > 2 * SAME_PLACE_VOX:
        raise InvalidCaseError(
            f"{path}: a frame lies between voxels of the scan, by up to {off.max():.3g}, or has other pixels; wanted "
            f"the scan's grid of {grid.shape} voxels; resample it to the scan, or name the series it was made on",
            "mask",
        )
    return first, whole, bool(between.max() > 2 * SAME_PLACE_VOX)
