"""RTSTRUCT: the regions of interest of a DICOM structure set, and the series that they were drawn on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medpretrain3d.store.readers.dicom_header import damage_named, read_header
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR", "")
"""Types of contours that enclose something; one that is not stated is taken for such."""
NO_OBJECTS = ("EXTERNAL", "SUPPORT", "FIXATION", "ISOCENTER", "MARKER", "REGISTRATION", "BOLUS", "DOSE_REGION")
"""Interpreted types of regions that are no finding and no organ: the skin, the table, points."""


@dataclass(frozen=True)
class Roi:
    """A region of interest, without its contours.

    Args:
        number: by which the file refers to it.
        name: as its author wrote it, without blanks around it.
        kind: its interpreted type, as `GTV` or `ORGAN`; empty where the file does not say.
        num_contours: closed ones; a region without any was named and never drawn.
    """

    number: int
    name: str
    kind: str
    num_contours: int


@dataclass(frozen=True)
class References:
    """What a structure set or a segmentation was drawn on, by identifiers that stay in memory."""

    series: frozenset[str]
    frames: frozenset[str]
    """Frames of reference."""


def references_of(header: Dataset) -> References:
    """Return every series and frame of reference that an object names, however deep in its sequences."""
    series, frames = set(), set()
    for item in _items(header):
        series.add(_text(item, "SeriesInstanceUID") if item is not header else "")
        frames.add(_text(item, "FrameOfReferenceUID"))
        frames.add(_text(item, "ReferencedFrameOfReferenceUID"))
    return References(frozenset(series - {""}), frozenset(frames - {""}))


def rois_of(header: Dataset) -> list[Roi]:
    """Return the regions of a structure set, in the order of its list, those that were never drawn among them."""
    kinds = {
        _whole(one, "ReferencedROINumber"): _text(one, "RTROIInterpretedType").upper()
        for one in header.get("RTROIObservationsSequence") or []
    }
    counts: Counter[int] = Counter()
    for number, contour in _contours(header):
        counts[number] += _text(contour, "ContourGeometricType").upper() in CLOSED
    found = []
    for one in header.get("StructureSetROISequence") or []:
        number = _whole(one, "ROINumber")
        name = unicodedata.normalize("NFC", " ".join(_text(one, "ROIName").split())) or f"ROI {number}"
        found.append(Roi(number, name, kinds.get(number, ""), counts[number]))
    return found


def read_contours(path: Path, number: int, header: Dataset | None = None) -> tuple[list[np.ndarray], Counter[str]]:
    """Return the closed contours of a region, (P, 3) LPS mm each, and how many of other kinds were left out.

    Raises:
        MissingLibrary: pydicom.
        InvalidCaseError: the file cannot be read, or a contour's coordinates are no points.
    """
    header = read_header(path) if header is None else header
    with damage_named(path):
        return _closed(path, number, header)


def _closed(path: Path, number: int, header: Dataset) -> tuple[list[np.ndarray], Counter[str]]:
    found: list[np.ndarray] = []
    remarks: Counter[str] = Counter()
    for its_number, contour in _contours(header):
        if its_number != number:
            continue
        kind = _text(contour, "ContourGeometricType").upper()
        if kind not in CLOSED:
            remarks["contours that enclose nothing (points and open lines), which were left out"] += 1
            continue
        try:
            points = np.array([float(one) for one in contour.get("ContourData") or []]).reshape(-1, 3)
        except (TypeError, ValueError) as error:
            raise InvalidCaseError(
                f"{path}: coordinates of a contour of region {number} are no points (x, y, z); export it again",
                "annotation",
            ) from error
        if not np.isfinite(points).all():
            raise InvalidCaseError(
                f"{path}: coordinates of a contour of region {number} are not finite; export it again", "annotation"
            )
        if len(points):
            found.append(points)
    return found, remarks


def _contours(header: Dataset) -> Iterator[tuple[int, Any]]:
    for region in header.get("ROIContourSequence") or []:
        for contour in region.get("ContourSequence") or []:
            yield _whole(region, "ReferencedROINumber"), contour


def _items(header: Dataset) -> Iterator[Any]:
    """Return a data set and those nested in it, contours left out: there are thousands, and they name slices only."""
    yield header
    for element in header:
        if element.VR == "SQ" and element.keyword not in ("ROIContourSequence", "PerFrameFunctionalGroupsSequence"):
            for item in element.value or []:
                yield from _items(item)


def _text(item: Any, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else str(value).strip()


def _whole(item: Any, keyword: str) -> int:
    try:
        return int(item.get(keyword))
    except (TypeError, ValueError):
        return -1
