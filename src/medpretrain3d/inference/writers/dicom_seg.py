"""dicom-seg/<case>.dcm: the segmented objects as a DICOM segmentation of the series, a segment for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import medpretrain3d
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.dicom_file import write_dicom
from medpretrain3d.inference.writers.dicom_source import (
    MANUFACTURER,
    Source,
    check_library,
    result_uid,
    source_of,
    tracking_uid,
)
from medpretrain3d.inference.writers.masks import mask_path
from medpretrain3d.inference.writers.writer import CASE_WRITERS
from medpretrain3d.names import plain_name
from medpretrain3d.store.readers import read_scan
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 9001


def segmentation(classes: Sequence[str], prediction: Prediction, instances: np.ndarray) -> Dataset | None:
    """Return the segmentation object of a scan; None where no box has a voxel, for an object without segments is none.

    Its frames are the slices as they are in the file: of a tilted gantry each gets the nearest voxels of the corrected
    grid, and what lies beside the slices there is in no frame.

    Args:
        classes: names.
        prediction: of a DICOM series.
        instances: (i, j, k), `n + 1` where the object of box `n` is.

    Raises:
        UserError: highdicom is missing, or the scan was no DICOM series.
    """
    check_library()
    import highdicom

    if instances.max(initial=0) > len(prediction):
        raise InvalidCaseError(
            f"{prediction.case}: its masks hold {instances.max()} objects and there are {len(prediction)} boxes, so "
            "they are of another call; predict into another folder",
            "mask",
        )
    if not instances.any():
        return None
    source = source_of(prediction)
    instances = _in_slices(instances, source)
    numbers = [int(number) for number in np.unique(instances) if number]
    if not numbers:
        return None
    headers = source.headers
    value_of = np.zeros(max(numbers) + 1, dtype=np.uint16)
    value_of[numbers] = np.arange(1, len(numbers) + 1)  # segments count from 1 without gaps
    array = value_of[instances].transpose(2, 1, 0)  # (slice, row, column)
    return highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=array.astype(np.uint8) if len(numbers) < 256 else array,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(segment, classes, prediction, number - 1, headers)
            for segment, number in enumerate(numbers, start=1)
        ],
        series_instance_uid=result_uid(headers, "segmentation series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(headers, "segmentation", prediction.boxes_vox.tolist(), numbers),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=medpretrain3d.__version__,
        device_serial_number="0",
        content_label="DETECTIONS",
        series_description="Objects found by medpretrain3d",
        omit_empty_frames=True,
        **_geometry(prediction, source),
    )


def _in_slices(instances: np.ndarray, source: Source) -> np.ndarray:
    """Return (i, j, k) of the slices' own pixels: the nearest voxel of all of a slice is as far away."""
    columns, rows = source.size
    starts = np.clip(np.rint(source.offsets_vox).astype(int), 0, np.array(instances.shape[:2]) - source.size)
    return np.stack([instances[i : i + columns, j : j + rows, k] for k, (i, j) in enumerate(starts)], axis=2)


def _geometry(prediction: Prediction, source: Source) -> dict[str, Any]:
    """Where the slices lie, as the grid has it: headers of slices may lack what highdicom would ask them for."""
    import highdicom

    grid = prediction.grid
    columns_mm, rows_mm, slices_mm = grid.spacing_mm
    affine = grid.affine_lps
    return {
        "plane_orientation": highdicom.PlaneOrientationSequence(
            highdicom.CoordinateSystemNames.PATIENT, grid.directions[:, :2].T.reshape(-1).tolist()
        ),
        "pixel_measures": highdicom.PixelMeasuresSequence((rows_mm, columns_mm), slices_mm, slices_mm),
        "plane_positions": [
            highdicom.PlanePositionSequence(
                highdicom.CoordinateSystemNames.PATIENT, (affine[:3, 3] + affine[:3, :3] @ (i, j, k)).tolist()
            )
            for k, (i, j) in enumerate(source.offsets_vox)
        ],
    }


def _description(
    segment: int, classes: Sequence[str], prediction: Prediction, row: int, headers: Sequence[Dataset]
) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    name = classes[int(prediction.labels[row])]
    return highdicom.seg.SegmentDescription(
        segment_number=segment,
        segment_label=f"{name} {row + 1}"[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.cid7159.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MANUFACTURER,
            family=codes.DCM.ArtificialIntelligence,
            version=medpretrain3d.__version__,
        ),
        tracking_id=f"{name} {row + 1}",
        tracking_uid=tracking_uid(headers, prediction, row),
    )


@CASE_WRITERS.register("dicom-seg")
def write_segmentation(folder: Path, classes: Sequence[str], prediction: Prediction) -> None:
    """Write `dicom-seg/<case>.dcm` from the case's instance map, which `masks` has written before.

    Raises:
        UserError: highdicom is missing, the scan was no DICOM series, or the folder cannot be written.
    """
    path = folder / "dicom-seg" / f"{plain_name(prediction.case, 'case id')}.dcm"
    if prediction.instances is None:
        instances = read_scan(mask_path(folder, prediction.case)).voxels[0]
    else:
        instances = prediction.instances
    write_dicom(path, segmentation(classes, prediction, instances))
