"""What a DICOM file is, and the data sets of those that SimpleITK does not read. Needs pydicom, the extra `dicom`."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers.dicom_elements import check_elements
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and label map segmentation."""
ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted MR
    "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted PET
    "1.2.840.10008.5.1.4.1.1.130",  # PET
)
"""Classes of images with several frames that have functional groups."""
_NO_SCANS = (
    RTSTRUCT,
    *SEGMENTATIONS,
    "1.2.840.10008.5.1.4.1.1.66",  # registration, fiducials, surfaces, ... and segmentations begin like it
    "1.2.840.10008.5.1.4.1.1.88",  # structured reports
    "1.2.840.10008.5.1.4.1.1.11",  # presentation states
    "1.2.840.10008.5.1.4.1.1.104",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.481",  # radiotherapy: dose, plan, images of a linac
)
"""Classes of objects, or what they begin with, that lie beside scans in an export and are none."""
_LONG = (b"OB", b"OW", b"UN", b"SQ", b"UT")


class MissingLibrary(UserError):
    """No fault of a file: the library that reads it is not installed."""


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM: 128 bytes of anything, then DICM. A file that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return path.name[0] != "." and file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def sop_class(path: Path) -> str:
    """Return the class of object as the file's first bytes name it (PS3.10 7.1); empty where they do not."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
    except OSError:
        return ""
    place = 132
    while head[128:132] == b"DICM" and place + 8 <= len(head):
        group, element, kind = *struct.unpack_from("<HH", head, place), head[place + 4 : place + 6]
        if group != 2:
            break
        start, form = (place + 12, "<I") if kind in _LONG else (place + 8, "<H")
        if start > len(head):
            break
        (length,) = struct.unpack_from(form, head, start - struct.calcsize(form))
        if element == 2:
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        place = start + length
    return ""


def is_scan(path: Path) -> bool:
    """Return whether a DICOM file is an image of a patient, as far as its first bytes tell: structure sets,
    segmentations, reports, doses and plans are none."""
    name = sop_class(path)
    return not any(name == one or name.startswith(f"{one}.") for one in _NO_SCANS)


def read_header(path: Path, tags: list[str] | None = None, is_with_pixels: bool = False) -> Dataset:
    """Return the elements of a file.

    Args:
        path: the file.
        tags: keywords of those that are wanted; None is all.
        is_with_pixels: whether pixels are among them.

    Raises:
        MissingLibrary: pydicom.
        InvalidCaseError: the file is no readable DICOM file.
    """
    pydicom = _pydicom()
    with damage_named(path):
        check_elements(path)
        header: Dataset = pydicom.dcmread(path, stop_before_pixels=not is_with_pixels, specific_tags=tags)
        return header


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises for a damaged file, also when an element is asked for, into one line.

    Raises:
        InvalidCaseError: an element could not be read. Its errors are of many types, and their texts, as its warnings,
            may quote a header.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise InvalidCaseError(f"{path}: is no readable DICOM file; copy or export it again") from error


def _pydicom() -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise MissingLibrary('reading this DICOM file needs pydicom: pip install "medpretrain3d[dicom]"') from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings may quote a header
    module: ModuleType = pydicom
    return module
