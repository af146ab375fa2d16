"""The DICOM series that a scan was read from, as writers of DICOM need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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
MAX_OFF_VOX = 0.6
"""Half a voxel is what slices may be shifted by against each other (`MAX_SHIFT_VOX`)."""


def check_library() -> None:
    """Refuse to write DICOM where highdicom is missing.

    Raises:
        MissingLibrary: it is.
    """
    try:
        import highdicom  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingLibrary('writing DICOM needs highdicom: pip install "medpretrain3d[dicom]"') from error


@dataclass(frozen=True)
class Source:
    """The slices of a scan, in the order of the prediction's grid along k."""

    headers: list[Dataset]
    """Of each slice; of an enhanced object its one."""
    offsets_vox: np.ndarray
    """(K, 2): where on the grid, along (i, j), each slice's first pixel lies. 0 unless a tilted gantry was corrected:
    then the grid is larger than the slices, which lie in its planes one by one."""
    size: tuple[int, int]
    """Pixels of a slice along (i, j)."""


def source_of(prediction: Prediction) -> Source:
    """Return the slices that a scan was read from.

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
    slices: list[tuple[np.ndarray, Dataset, tuple[int, int]]] = []
    for file in series_of(path, series).files:
        header = read_header(file)
        slices += [(_index(prediction, head.corner), header, head.size) for head in heads_of(file)]
    slices.sort(key=lambda one: one[0][2])
    size, shape = slices[0][2], prediction.grid.shape
    index = np.array([one[0] for one in slices])  # (K, 3)
    _check_on_grid(prediction, index, size)
    headers = list({id(header): header for _, header, _ in slices}.values())
    for header in headers:
        _complete(path, header)
    return Source(headers, index[:, :2] if size != shape[:2] else np.zeros((len(slices), 2)), size)


def _index(prediction: Prediction, corner: np.ndarray) -> np.ndarray:
    affine = prediction.grid.affine_lps
    index: np.ndarray = np.linalg.inv(affine[:3, :3]) @ (corner - affine[:3, 3])
    return index


def _check_on_grid(prediction: Prediction, index: np.ndarray, size: tuple[int, int]) -> None:
    """Refuse slices that are not the planes of the grid, or that reach outside of it."""
    shape = prediction.grid.shape
    outside = np.maximum(-index[:, :2], index[:, :2] + size - shape[:2])
    is_plane_each = len(index) == shape[2] and np.abs(index[:, 2] - np.arange(shape[2])).max() <= MAX_OFF_VOX
    if not is_plane_each or outside.max() > MAX_OFF_VOX:
        raise InvalidCaseError(
            f"{prediction.case}: slices do not lie on the grid of the prediction, so they were read otherwise then; "
            "predict the series again",
            "geometry",
        )


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


def tracking_uid(headers: Sequence[Dataset], prediction: Prediction, row: int) -> str:
    """Return the identifier by which a box is known in the report and in the segmentation, and of no other scan."""
    return result_uid(headers, "finding", prediction.boxes_lps_mm[row].tolist(), row)
