"""DICOM files of scans, as a test needs them: single slices, enhanced objects and structure sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
)

AXIAL = np.diag([0.9, 0.8, 2.5, 1.0])
"""(column, row, slice) to LPS mm."""


def new(sop_class: str, uid: str, **values: Any) -> Dataset:
    """A data set of a class of objects with what every object of a patient has."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = sop_class
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = uid
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "DOE^JANE", "4711", "19700101", "F"
    one.StudyInstanceUID, one.StudyID, one.StudyDate, one.StudyTime = "1.2", "1", "20200101", "120000"
    one.SeriesNumber, one.InstanceNumber, one.AccessionNumber, one.ReferringPhysicianName = 1, 1, "", ""
    one.FrameOfReferenceUID = "1.9"
    for name, value in values.items():
        setattr(one, name, value)
    return one


def save(one: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
    return path


def _pixels(one: Dataset, stored: np.ndarray) -> None:
    one.Rows, one.Columns = stored.shape[-2:]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    one.PixelData = np.ascontiguousarray(stored).astype(np.int16).tobytes()


def _directions(affine: np.ndarray) -> tuple[list[float], list[float]]:
    """Orientation and pixel spacing of slices."""
    lengths = np.linalg.norm(affine[:3, :2], axis=0)
    return (affine[:3, :2] / lengths).T.reshape(-1).tolist(), lengths[::-1].tolist()


def write_scan(
    folder: Path, voxels: np.ndarray, affine: np.ndarray = AXIAL, series: str = "1.2.3", **values: Any
) -> Path:
    """Write voxels (column, row, slice) in HU as a series of single slices."""
    modality = values.setdefault("Modality", "CT")
    orientation, spacing = _directions(affine)
    for k in range(voxels.shape[2]):
        one = new(CTImageStorage if modality == "CT" else MRImageStorage, f"{series}.{k + 1}", **values)
        one.SeriesInstanceUID, one.InstanceNumber = series, k + 1
        one.ImagePositionPatient = (affine[:3, 3] + k * affine[:3, 2]).tolist()
        one.ImageOrientationPatient, one.PixelSpacing = orientation, spacing
        one.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        _pixels(one, voxels[:, :, k].T + 1024)
        save(one, folder / f"{k + 1:03d}.dcm")
    return folder


def _item(**values: Any) -> Dataset:
    one = Dataset()
    for name, value in values.items():
        setattr(one, name, value)
    return one


def write_enhanced(
    file: Path,
    voxels: np.ndarray,
    affine: np.ndarray = AXIAL,
    frame_order: Sequence[int] | None = None,
    per_frame: Mapping[str, Sequence[Dataset]] = {},
    is_shared: bool = True,
    modality: str = "CT",
    **values: Any,
) -> Path:
    """Write voxels (column, row, slice) in HU as one object with a frame per slice.

    Args:
        file: to write.
        voxels: HU.
        affine: from voxels to LPS mm.
        frame_order: which slice each frame is.
        per_frame: an item for each frame of a functional group.
        is_shared: whether what is of all frames stands in the shared groups.
        modality: `CT` or `MR`.
        values: of the object.
    """
    orientation, spacing = _directions(affine)
    one = new(EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage, "1.2.3.1", **values)
    one.Modality, one.SeriesInstanceUID = modality, "1.2.3"
    order = list(range(voxels.shape[2])) if frame_order is None else list(frame_order)
    one.NumberOfFrames = len(order)
    groups = {
        "PlaneOrientationSequence": [_item(ImageOrientationPatient=orientation)],
        "PixelMeasuresSequence": [_item(PixelSpacing=spacing, SliceThickness=2.5)],
        "PixelValueTransformationSequence": [_item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
    }
    one.SharedFunctionalGroupsSequence = [_item(**groups) if is_shared else Dataset()]
    frames = []
    for number, k in enumerate(order):
        position = _item(ImagePositionPatient=(affine[:3, 3] + k * affine[:3, 2]).tolist())
        frame = _item(**({} if is_shared else groups), PlanePositionSequence=[position])
        for name, items in per_frame.items():
            setattr(frame, name, [items[number]])
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    _pixels(one, np.stack([voxels[:, :, k].T for k in order]) + 1024)
    return save(one, file)


def traced(mask: np.ndarray, affine: np.ndarray, decimals: int = 4) -> list[np.ndarray]:
    """Contours of a mask (column, row, slice), slice by slice, halfway between its voxels and others: (P, 3) LPS mm."""
    found = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        plane = np.pad(mask[:, :, k].astype(float), 1)
        for line in contourpy.contour_generator(z=plane).lines(0.5):
            row_column = np.asarray(line)[:-1] - 1  # x runs along the second axis
            index = np.column_stack([row_column[:, 1], row_column[:, 0], np.full(len(row_column), k)])
            found.append(np.round(index @ affine[:3, :3].T + affine[:3, 3], decimals))
    return found


def write_structures(
    file: Path, regions: Mapping[str, Sequence[np.ndarray]], series: str = "1.2.3", **values: Any
) -> Path:
    """Write a structure set of regions with contours (P, 3) LPS mm each.

    Args:
        file: to write.
        regions: contours by name; `name|KIND` sets the interpreted type, `name||POINT` the type of its contours.
        series: that it refers to.
        values: of the object.
    """
    one = new(RTStructureSetStorage, f"{series}.99", Modality="RTSTRUCT", SeriesInstanceUID=f"{series}.98", **values)
    one.SpecificCharacterSet = "ISO_IR 192"
    referenced = _item(RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series)], ReferencedSOPInstanceUID="1.2")
    frame = _item(FrameOfReferenceUID=one.FrameOfReferenceUID, RTReferencedStudySequence=[referenced])
    one.ReferencedFrameOfReferenceSequence = [frame]
    one.StructureSetROISequence, one.ROIContourSequence, one.RTROIObservationsSequence = [], [], []
    for number, (text, contours) in enumerate(regions.items()):
        name, kind, shape = [*text.split("|"), "", ""][:3]
        one.StructureSetROISequence.append(_item(ROINumber=number, ROIName=name))
        one.RTROIObservationsSequence.append(_item(ReferencedROINumber=number, RTROIInterpretedType=kind))
        drawn = [
            _item(
                ContourGeometricType=shape or "CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.6g}" if abs(value) < 1e-4 else str(value) for value in points.reshape(-1)],
            )
            for points in contours
        ]
        one.ROIContourSequence.append(_item(ReferencedROINumber=number, ContourSequence=drawn))
    return save(one, file)
