"""The planes of a DICOM file: one slice, or the frames of an object that holds several. Needs SimpleITK and pydicom.

Of the header only the tags below are asked for: geometry, modality, and which slices belong together. Nothing that
names a patient is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from medpretrain3d.store.readers.dicom_elements import check_elements
from medpretrain3d.store.readers.dicom_frames import image_type_of, likeness_of, plane_of, rescale_of
from medpretrain3d.store.readers.dicom_header import ENHANCED, MissingLibrary, damage_named, read_header, sop_class
from medpretrain3d.store.skipped_cases import InvalidCaseError, UndecodablePixelsError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
_FRAMES, _SAMPLES = "0028|0008", "0028|0002"
_IMAGE_TYPE, _SLOPE, _INTERCEPT = "0008|0008", "0028|1053", "0028|1052"
_ALIKE = {
    "modalities": "0008|0060",
    "photometric interpretations": "0028|0004",
    "echo times": "0018|0081",
    "echo numbers": "0018|0086",
    "temporal positions": "0020|0100",
    "frames of reference": "0020|0052",
    "b-values": "0018|9087",
    "reconstruction kernels": "0018|1210",
    "rescale types": "0028|1054",
}
"""What slices of one volume have in common. Not the number of the acquisition: one axial CT may take several."""


@dataclass(frozen=True)
class SliceHead:
    """Header fields that determine the position of a slice."""

    file: Path
    size: tuple[int, int]
    corner: np.ndarray
    """(3,) LPS mm of the first pixel."""
    axes: np.ndarray
    """(3, 2): steps along the columns' and the rows' index in LPS mm."""
    message: Mapping[str, str]
    """What slices of one volume have in common; empty where the header does not say."""
    is_localizer: bool
    is_rescaled: bool
    """Whether the header has both numbers that lead from what is stored to what it means."""
    frame: int | None = None
    """Of a file with several, from 0; None where the file is the slice."""
    rescale: tuple[float, float] | None = None
    """Slope and intercept of a frame; those of a file are applied as it is read."""


def heads_of(file: Path) -> list[SliceHead]:
    """Return the planes of a file, the frames of an enhanced object in their order.

    Raises:
        MissingLibrary: SimpleITK or pydicom.
        InvalidCaseError: unreadable or colored, no place, or several frames without functional groups.
    """
    return _frames(file) if sop_class(file) in ENHANCED else [_head(file)]


def _frames(file: Path) -> list[SliceHead]:
    header = read_header(file)
    with damage_named(file):
        return _heads_of_frames(file, header)


def _heads_of_frames(file: Path, header: Dataset) -> list[SliceHead]:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise InvalidCaseError(f"{file}: is in colour, so it is no scan; leave it out", "values")
    try:
        size = int(header.Columns), int(header.Rows)
        count = int(header.get("NumberOfFrames") or 1)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidCaseError(f"{file}: has no usable numbers of rows, columns and frames; export it again") from error
    if count != len(header.get("PerFrameFunctionalGroupsSequence") or []):
        raise InvalidCaseError(f"{file}: does not say of each of its {count} frames where it lies; export it again")
    heads = []
    for number in range(count):
        corner, axes = plane_of(file, header, number)
        rescale = rescale_of(file, header, number)
        message = likeness_of(header, number)
        is_localizer = "LOCALIZER" in image_type_of(header, number)
        heads.append(SliceHead(file, size, corner, axes, message, is_localizer, rescale is not None, number, rescale))
    return heads


def _head(file: Path) -> SliceHead:
    header = open_header(file)

    def text(tag: str) -> str:
        return str(header.GetMetaData(tag)).strip() if header.HasMetaDataKey(tag) else ""

    def numbers(tag: str, count: int) -> np.ndarray:
        try:
            values = np.array([float(value) for value in header.GetMetaData(tag).split("\\")])
            if len(values) == count and np.isfinite(values).all():
                return values
        except (RuntimeError, ValueError):
            pass
        raise InvalidCaseError(
            f"{file}: no usable tag ({tag}): where the slice lies is unknown; export it again", "slices"
        )

    if text(_FRAMES) not in ("", "1"):
        raise InvalidCaseError(
            f"{file}: holds several frames and is no enhanced CT, MR or PET, so where they lie is unknown; convert it, "
            "e.g. by dcm2niix",
            "slices",
        )
    if text(_SAMPLES) not in ("", "1"):
        raise InvalidCaseError(f"{file}: is in colour, so it is no scan; leave it out", "values")
    along = numbers(_ORIENTATION, 6).reshape(2, 3).T
    row_mm, column_mm = numbers(_PIXEL_SPACING, 2)
    if not (row_mm > 0 and column_mm > 0 and np.linalg.norm(along, axis=0).min() > 0.5):
        raise InvalidCaseError(f"{file}: spacing of {row_mm} x {column_mm} mm or a direction of no length", "geometry")
    # The first direction runs along a row, whose pixels are a column spacing apart.
    axes = along * [column_mm, row_mm]
    width, height = header.GetSize()[:2]
    is_rescaled = bool(text(_SLOPE) and text(_INTERCEPT))
    if is_rescaled and numbers(_SLOPE, 1)[0] == 0:
        raise InvalidCaseError(f"{file}: rescale slope of 0, which leaves no image; export it again", "values")
    is_localizer = "LOCALIZER" in text(_IMAGE_TYPE).upper().split("\\")
    message = {name: text(tag).upper() for name, tag in _ALIKE.items()}
    return SliceHead(file, (width, height), numbers(_POSITION, 3), axes, message, is_localizer, is_rescaled)


class PixelReader:
    """Reads pixels of slices; of a file with several frames it keeps those of the last one."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._frames = np.zeros(0)

    def read(self, head: SliceHead) -> np.ndarray:
        """Return (column, row), rescaled.

        Raises:
            UndecodablePixelsError: they cannot be decoded.
        """
        if head.frame is None:
            return _pixels(head.file)
        if head.file != self._file:
            self._file, self._frames = head.file, _all_frames(head)
        return _rescaled(self._frames[head.frame].T, head.rescale)


def _pixels(file: Path) -> np.ndarray:
    reader = open_header(file)
    try:
        pixels = simpleitk().GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise UndecodablePixelsError(f"{file}: its pixels cannot be decoded; copy or export it again") from error
    result: np.ndarray = pixels.reshape(pixels.shape[-2:]).T.astype(
        np.float32 if pixels.dtype.kind == "f" else np.int32
    )
    return result


def _all_frames(head: SliceHead) -> np.ndarray:
    """Return (frame, row, column) as stored."""
    header = read_header(head.file, is_with_pixels=True)
    try:
        pixels = header.pixel_array
    except Exception as error:  # of many types, and its text may quote the header
        raise UndecodablePixelsError(
            f"{head.file}: its pixels cannot be decoded; export it again, or decompress it, e.g. by gdcmconv --raw"
        ) from error
    result: np.ndarray = pixels.reshape(-1, head.size[1], head.size[0])
    return result


def _rescaled(pixels: np.ndarray, rescale: tuple[float, float] | None) -> np.ndarray:
    slope, intercept = rescale or (1.0, 0.0)
    if slope == int(slope) and intercept == int(intercept) and pixels.dtype.kind != "f":
        return pixels.astype(np.int32) * int(slope) + int(intercept)
    return (pixels * slope + intercept).astype(np.float32)


def simpleitk() -> ModuleType:
    """Return SimpleITK.

    Raises:
        MissingLibrary: it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingLibrary('reading DICOM needs SimpleITK: pip install "medpretrain3d[dicom]"') from error
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # its warnings may quote a header
    return SimpleITK


def open_header(file: Path) -> Any:
    """Return SimpleITK's reader of a file, which has read the header.

    Raises:
        MissingLibrary: SimpleITK.
        InvalidCaseError: the file is no readable DICOM file.
    """
    check_elements(file)
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        str(file).encode()
    except UnicodeEncodeError as error:  # SimpleITK would end the process
        raise InvalidCaseError(f"{file}: its name is not in UTF-8; rename it") from error
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # its text may quote the header
        raise InvalidCaseError(f"{file}: is no readable DICOM file; copy or export it again") from error
    return reader


def header_text(file: Path, tag: str) -> str:
    """Return the text of one element, as `0020|000e`; asked for by importers that have to tell series or slices apart.

    Raises:
        UserError: SimpleITK is missing.
        InvalidCaseError: the file is no DICOM file or lacks the element.
    """
    header = open_header(file)
    if not header.HasMetaDataKey(tag):
        raise InvalidCaseError(f"{file}: has no element ({tag}); download the series again")
    return str(header.GetMetaData(tag)).strip()
