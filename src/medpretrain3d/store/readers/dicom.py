"""DICOM: the slices of one series put together. Needs SimpleITK, the extra `dicom`.

Of the header only the tags below are asked for: geometry, modality, and which slices belong together. Nothing that
names a patient is looked at.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers.declared_header import MAX_BYTES, MAX_DEFLATE_RATIO
from medpretrain3d.store.readers.dicom_elements import check_elements
from medpretrain3d.store.readers.scan import Scan
from medpretrain3d.store.readers.slices import regular_order
from medpretrain3d.store.readers.walk import walk
from medpretrain3d.store.skipped_cases import InvalidCaseError

ENDINGS = (".dcm", ".ima")

_SERIES, _POSITION, _ORIENTATION, _PIXEL_SPACING = "0020|000e", "0020|0032", "0020|0037", "0028|0030"
_FRAMES, _SAMPLES, _MODALITY = "0028|0008", "0028|0002", "0008|0060"
_IMAGE_TYPE, _SLOPE, _INTERCEPT, _RESCALE_TYPE = "0008|0008", "0028|1053", "0028|1052", "0028|1054"
_ALIKE = {
    "modalities": _MODALITY,
    "photometric interpretations": "0028|0004",
    "echo times": "0018|0081",
    "echo numbers": "0018|0086",
    "temporal positions": "0020|0100",
    "frames of reference": "0020|0052",
    "b-values": "0018|9087",
    "reconstruction kernels": "0018|1210",
    "rescale types": _RESCALE_TYPE,
}
"""What slices of one volume have in common. Not the number of the acquisition: one axial CT may take several."""
HU_TYPES = ("", "HU", "US")
"""Rescale types of a CT in HU; `US`, unspecified, is what some scanners write."""


class MissingLibrary(UserError):
    """No fault of a file: the library that reads it is not installed."""


@dataclass(frozen=True)
class Series:
    """The files of one series, in the order of their names."""

    folder: Path
    key: str
    """Hash of the series' identifier, which leads back to the hospital's archive and so stays out of stores."""
    files: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM: 128 bytes of anything, then DICM. A file that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return path.name[0] != "." and file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def find_series(root: Path) -> list[Series]:
    """Return every series of a folder and the folders below it, in the order of folders and first files.

    Raises:
        MissingLibrary: SimpleITK.
    """
    folders = defaultdict(list)
    for path in sorted(walk(Path(root))):
        if is_dicom(path):
            folders[path.parent].append(path)
    return [series for folder, files in sorted(folders.items()) for series in _by_series(folder, files, False)]


def read_dicom(path: Path) -> Scan:
    """Read the series in a folder, or the one that a file belongs to; each slice rescaled by its own header.

    Raises:
        MissingLibrary: SimpleITK.
        InvalidCaseError: no series or several, unreadable or coloured slices, several frames in a file, slices that are
            missing, doubled, unevenly spaced, shifted or turned against each other, or of several echoes, times or
            reconstructions.
    """
    series = series_of(path)
    heads = [_Head.read(file) for file in series.files]
    size = heads[0].size
    different = sum(head.size != size for head in heads)
    if different:
        raise InvalidCaseError(
            f"{path}: {different} of {len(heads)} slices are not of {size[0]} x {size[1]} pixels; remove localizers "
            "from the series",
            "slices",
        )
    num_bytes = 4 * size[0] * size[1] * len(heads)
    stored = sum(file.stat().st_size for file in series.files)
    if num_bytes > MAX_BYTES or num_bytes > 4 * stored * MAX_DEFLATE_RATIO:
        raise InvalidCaseError(
            f"{path}: headers claim {len(heads)} slices of {size[0]} x {size[1]} pixels in {stored:,} bytes", "claim"
        )
    _check_alike(path, heads)
    corners, axes = [head.corner for head in heads], [head.axes for head in heads]
    order, affine = regular_order(path, corners, axes, size, _same_pixels(heads))
    slices = [_pixels(heads[index].file) for index in order]
    return Scan(path, np.stack(slices, axis=-1)[None], affine, heads[0].message["modalities"], _not_hu(heads[0]))


def series_of(path: Path) -> Series:
    """Return the series in a folder, or the one that a file belongs to.

    Raises:
        MissingLibrary: SimpleITK.
        InvalidCaseError: there is none, the folder holds several, or a file in it that is called one of DICOM is
            none: at an end of the stack nothing else would show that its slice is missing.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    entries = list(walk(folder, is_deep=False))
    files = [file for file in entries if is_dicom(file)]
    damaged = [file for file in entries if file.suffix.lower() in ENDINGS and file not in files]
    if files and damaged:
        raise InvalidCaseError(f"{damaged[0]}: is called a DICOM file and is none; copy or export it again")
    found = _by_series(folder, files, is_strict=True)
    if not path.is_dir():
        found = [series for series in found if path in series.files]
    if len(found) != 1:
        message = "holds no DICOM series" if not found else f"holds {len(found)} DICOM series; name one file of the one"
        raise InvalidCaseError(f"{path}: {message}", "layout")
    return found[0]


def _by_series(folder: Path, files: Sequence[Path], is_strict: bool) -> list[Series]:
    series = defaultdict(list)
    for file in files:
        try:
            header = _header(file)
            key = header.GetMetaData(_SERIES).strip() if header.HasMetaDataKey(_SERIES) else ""
        except InvalidCaseError:
            if is_strict:
                raise
            key = ""  # a series of its own, and reading it says what is wrong
        series[hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8]].append(file)
    return [Series(folder, key, tuple(its_files)) for key, its_files in series.items()]


@dataclass(frozen=True)
class _Head:
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

    @staticmethod
    def read(file: Path) -> _Head:
        header = _header(file)

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
            raise InvalidCaseError(f"{file}: holds several frames; convert it, e.g. by dcm2niix", "slices")
        if text(_SAMPLES) not in ("", "1"):
            raise InvalidCaseError(f"{file}: is in colour, so it is no scan; leave it out", "values")
        along = numbers(_ORIENTATION, 6).reshape(2, 3).T
        row_mm, column_mm = numbers(_PIXEL_SPACING, 2)
        if not (row_mm > 0 and column_mm > 0 and np.linalg.norm(along, axis=0).min() > 0.5):
            raise InvalidCaseError(
                f"{file}: spacing of {row_mm} x {column_mm} mm or a direction of no length", "geometry"
            )
        # The first direction runs along a row, whose pixels are a column spacing apart.
        axes = along * [column_mm, row_mm]
        width, height = header.GetSize()[:2]
        is_rescaled = bool(text(_SLOPE) and text(_INTERCEPT))
        if is_rescaled and numbers(_SLOPE, 1)[0] == 0:
            raise InvalidCaseError(f"{file}: rescale slope of 0, which leaves no image; export it again", "values")
        is_localizer = "LOCALIZER" in text(_IMAGE_TYPE).upper().split("\\")
        message = {name: text(tag).upper() for name, tag in _ALIKE.items()}
        return _Head(file, (width, height), numbers(_POSITION, 3), axes, message, is_localizer, is_rescaled)


def _check_alike(path: Path, heads: Sequence[_Head]) -> None:
    """Refuse slices that are of several volumes, whatever their places say."""
    for name in _ALIKE:
        values = sorted({head.message[name] for head in heads} - {""})
        if len(values) > 1:  # of the text only how often it differs is told: it is a header's
            raise InvalidCaseError(
                f"{path}: slices of {len(values)} different {name} in one series; give each a series", "slices"
            )
    for what, count in (
        ("are localizers", sum(head.is_localizer for head in heads)),
        ("have no rescale slope or intercept", sum(not head.is_rescaled for head in heads)),
    ):
        if 0 < count < len(heads):
            raise InvalidCaseError(
                f"{path}: {count} of {len(heads)} slices {what}; remove them from the series", "slices"
            )


def _not_hu(head: _Head) -> str:
    """Why values are not known to be HU."""
    if not head.is_rescaled:
        return "has no rescale slope and intercept, so nothing says how its values become HU"
    return "" if head.message["rescale types"] in HU_TYPES else "its rescale type says that its values are not HU"


def _same_pixels(heads: Sequence[_Head]) -> Any:
    return lambda one, other: np.array_equal(_pixels(heads[one].file), _pixels(heads[other].file))


def _simpleitk() -> ModuleType:
    try:
        import SimpleITK
    except ImportError as error:
        raise MissingLibrary('reading DICOM needs SimpleITK: pip install "medpretrain3d[dicom]"') from error
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # its warnings may quote a header
    return SimpleITK


def _header(file: Path) -> Any:
    check_elements(file)
    reader = _simpleitk().ImageFileReader()
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


def _pixels(file: Path) -> np.ndarray:
    """Return (column, row), rescaled."""
    reader = _header(file)
    try:
        pixels = _simpleitk().GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InvalidCaseError(f"{file}: its pixels cannot be decoded; copy or export it again") from error
    result: np.ndarray = pixels.reshape(pixels.shape[-2:]).T.astype(
        np.float32 if pixels.dtype.kind == "f" else np.int32
    )
    return result


def header_text(file: Path, tag: str) -> str:
    """Return the text of one element, as `0020|000e`; asked for by importers that have to tell series or slices apart.

    Raises:
        UserError: SimpleITK is missing.
        InvalidCaseError: the file is no DICOM file or lacks the element.
    """
    header = _header(file)
    if not header.HasMetaDataKey(tag):
        raise InvalidCaseError(f"{file}: has no element ({tag}); download the series again")
    return str(header.GetMetaData(tag)).strip()
