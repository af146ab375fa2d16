"""A small DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian


def write_series(folder: Path, num_slices: int = 3) -> None:
    """Write `1.dcm`, `2.dcm`, ... of 4 x 5 pixels."""
    folder.mkdir(parents=True)
    for number in range(1, num_slices + 1):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"1.2.{number}"
        one.Modality, one.SeriesInstanceUID, one.StudyInstanceUID = "CT", "1.2", "1"
        one.ImagePositionPatient, one.ImageOrientationPatient = [0.0, 0.0, float(number)], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.Rows, one.Columns = [1, 1], 4, 5
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.PixelData = np.full((4, 5), number, np.int16).tobytes()
        one.save_as(folder / f"{number}.dcm", enforce_file_format=True)
