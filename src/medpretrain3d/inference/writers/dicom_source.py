"""The DICOM series that a scan was read from, as writers of DICOM need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.store.readers.dicom_header import MissingLibrary, read_header
from medpretrain3d.store.readers.dicom_series import series_of
from medpretrain3d.store.readers.dicom_slice import heads_of
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "medpretrain3d"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
"""What a result takes over from the scan, and the standard wants to be there (type 2)."""


def check_library() -> None:
    """Refuse to write DICOM where highdicom is missing.

    Raises:
        MissingLibrary: it is.
    """
    try:
        import highdicom  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingLibrary('writing DICOM needs highdicom: pip install "medpretrain3d[dicom]"') from error


def source_headers(prediction: Prediction) -> list[Dataset]:
    """Return the headers of the scan's slices, in the order of the file's grid along k; of an enhanced object its one.

    Raises:
        InvalidCaseError: the scan was no DICOM series, a slice lies elsewhere than the grid says, or an identifier is
            missing.
    """
    if prediction.source is None:
        raise InvalidCaseError(
            f"{prediction.file or prediction.case}: is no DICOM series, so there is no study for a result in DICOM; "
            "predict the series itself, or take --format json",
            "layout",
        )
    path, series = prediction.source
    found = series_of(path, series)
    headers = []
    for file in found.files:
        header = read_header(file)
        for head in heads_of(file):
            k = _index(prediction, head.corner)
            headers.append((k, header))
    headers.sort(key=lambda one: one[0])
    unique = list({id(header): header for _, header in headers}.values())
    for header in unique:
        _complete(path, header)
    return unique


def _index(prediction: Prediction, corner: np.ndarray) -> float:
    affine = prediction.grid.affine_lps
    index = np.linalg.inv(affine[:3, :3]) @ (corner - affine[:3, 3])
    if np.abs(index[:2]).max() > 0.6:
        raise InvalidCaseError(
            f"{prediction.case}: slices do not lie on the grid of the prediction, as after --straighten; masks and "
            "boxes in DICOM need the scan as it is",
            "geometry",
        )
    return float(index[2])


def _complete(path: Path, header: Dataset) -> None:
    missing = [name for name in _NEEDED if not header.get(name)]
    if missing:
        raise InvalidCaseError(
            f"{path}: has no {missing[0]}, which a result in DICOM refers to; export the series again"
        )
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")


def result_uid(headers: Sequence[Dataset], *content: object) -> str:
    """Return an identifier that is the same for the same scan and content (PS3.5 B.2: derived from a UUID)."""
    texts = [str(header.get("SOPInstanceUID")) for header in headers] + [repr(one) for one in content]
    digest = hashlib.sha256("\n".join(texts).encode()).digest()[:16]
    return f"2.25.{int.from_bytes(digest, 'big')}"
