"""Frames of a DICOM object with several: the place of each, out of functional groups per frame and shared ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ALIKE = {
    "stacks": ("FrameContentSequence", "StackID"),
    "temporal positions": ("FrameContentSequence", "TemporalPositionIndex"),
    "cardiac phases": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "respiratory phases": ("RespiratorySynchronizationSequence", "NominalRespiratoryTriggerDelayTime"),
    "echo times": ("MREchoSequence", "EffectiveEchoTime"),
    "b-values": ("MRDiffusionSequence", "DiffusionBValue"),
    "image components": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "reconstruction kernels": ("CTReconstructionSequence", "ConvolutionKernel"),
    "rescale types": ("PixelValueTransformationSequence", "RescaleType"),
    "frames of reference": ("", "FrameOfReferenceUID"),
    "modalities": ("", "Modality"),
}
"""What frames of one volume have in common, and the functional group that says it; what has none is of the object."""


def functional_group(header: Dataset, number: int, keyword: str) -> Any:
    """Return a functional group of a frame (from 0), or the shared one; None where there is neither."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*frames[number : number + 1], *(header.get("SharedFunctionalGroupsSequence") or [])[:1]):
        sequence = groups.get(keyword)
        if sequence:
            return sequence[0]
    return None


def plane_of(path: Path, header: Dataset, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pixel of a frame (3,) and the steps along its column and row index (3, 2), in LPS mm.

    Raises:
        InvalidCaseError: a position, orientation or spacing is missing or none.
    """
    position = _numbers(path, header, number, "PlanePositionSequence", "ImagePositionPatient", 3)
    directions = _numbers(path, header, number, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    row_mm, column_mm = _numbers(path, header, number, "PixelMeasuresSequence", "PixelSpacing", 2)
    along = directions.reshape(2, 3).T
    if not (row_mm > 0 and column_mm > 0 and np.linalg.norm(along, axis=0).min() > 0.5):
        raise InvalidCaseError(
            f"{path}: spacing of {row_mm} x {column_mm} mm or a direction of no length in frame {number + 1}",
            "geometry",
        )
    # The first direction runs along a row, whose pixels are a column spacing apart.
    return position, along * [column_mm, row_mm]


def rescale_of(path: Path, header: Dataset, number: int) -> tuple[float, float] | None:
    """Return slope and intercept of a frame; None where the object has none.

    Raises:
        InvalidCaseError: they are no numbers, or the slope is 0.
    """
    if functional_group(header, number, "PixelValueTransformationSequence") is None:
        return None
    place = path, header, number, "PixelValueTransformationSequence"
    slope, intercept = (float(_numbers(*place, name, 1)[0]) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        raise InvalidCaseError(f"{path}: rescale slope of 0, which leaves no image; export it again", "values")
    return slope, intercept


def likeness_of(header: Dataset, number: int) -> Mapping[str, str]:
    """Return what frames of one volume have in common, in upper case; empty where the object does not say."""

    def text(group: str, keyword: str) -> str:
        item = header if not group else functional_group(header, number, group)
        value = None if item is None else item.get(keyword)
        return "" if value is None else str(value).strip().upper()

    return {name: text(*place) for name, place in _ALIKE.items()}


def image_type_of(header: Dataset, number: int) -> tuple[str, ...]:
    """Return the words of a frame's type, such as `LOCALIZER`."""
    for group in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"):
        item = functional_group(header, number, group)
        if item is not None and item.get("FrameType"):
            return tuple(str(word).upper() for word in item.FrameType)
    return tuple(str(word).upper() for word in header.get("ImageType") or ())


def _numbers(path: Path, header: Dataset, number: int, group: str, keyword: str, count: int) -> np.ndarray:
    item = functional_group(header, number, group)
    try:
        value = item.get(keyword)
        values = np.array([float(one) for one in (value if count > 1 else [value])])
        if len(values) == count and np.isfinite(values).all():
            return values
    except (AttributeError, TypeError, ValueError):
        pass
    raise InvalidCaseError(
        f"{path}: frame {number + 1} has no usable {keyword}: where it lies is unknown; export it again", "slices"
    )
