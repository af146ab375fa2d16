"""dicom-sr/<case>.dcm: boxes, scores and measurements as a structured report of TID 1500."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import medpretrain3d
from medpretrain3d.boxes import box_size
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers.dicom_file import write_dicom
from medpretrain3d.inference.writers.dicom_source import (
    MANUFACTURER,
    check_library,
    result_uid,
    source_of,
    tracking_uid,
)
from medpretrain3d.inference.writers.writer import CASE_WRITERS
from medpretrain3d.names import plain_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 9002
SCHEME = "99MEDPRETRAIN3D"
"""Designator of codes that no standard has: scores, edges of boxes, classes."""
EDGES = ("x0", "y0", "z0", "x1", "y1", "z1")


def report(classes: Sequence[str], prediction: Prediction) -> Dataset:
    """Return the report of a scan, a measurement group for each box in the order of `predictions.json`.

    A group has the box as a volume surface (SCOORD3D: two opposite faces, along the scan's own axes), which the
    standard stores as float32, and its edges in LPS mm (those of `predictions.json`), its score, its three edge lengths
    and its volume as numbers.

    Raises:
        UserError: highdicom is missing, or the scan was no DICOM series.
    """
    check_library()
    import highdicom
    from pydicom.sr.codedict import codes

    headers = source_of(prediction).headers
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=result_uid([], MANUFACTURER, medpretrain3d.__version__),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=medpretrain3d.__version__,
    )
    context = highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(codes.DCM.Device, device)
    )
    content = highdicom.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=_procedure(headers[0]),
        imaging_measurements=[_group(classes, prediction, row, headers) for row in range(len(prediction))] or None,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return highdicom.sr.Comprehensive3DSR(
        evidence=headers,
        content=content,
        series_instance_uid=result_uid(headers, "report series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(headers, "report", prediction.boxes_vox.tolist(), prediction.scores.tolist()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_verified=False,
        series_description="Boxes found by medpretrain3d",
    )


def _procedure(header: Dataset) -> Any:
    from pydicom.sr.codedict import codes

    by_modality = {"CT": "CTUnspecifiedBodyRegion", "MR": "MRIUnspecifiedBodyRegion", "PT": "PETUnspecifiedBodyRegion"}
    return getattr(codes.cid100, by_modality.get(str(header.get("Modality")), "ImagingProcedure"))


def _group(classes: Sequence[str], prediction: Prediction, row: int, headers: Sequence[Dataset]) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    header = headers[0]
    name = classes[int(prediction.labels[row])]
    box_mm = prediction.boxes_lps_mm[row]
    lengths_mm = box_size(prediction.boxes_vox[row]) * prediction.grid.spacing_mm
    measured = [
        _measurement("score", "Detection score", float(f"{prediction.scores[row]:.9g}"), codes.UCUM.NoUnits),
        *(
            _measurement(edge, f"Edge {edge} of box, LPS", float(value), codes.UCUM.Millimeter)
            for edge, value in zip(EDGES, box_mm, strict=True)
        ),
        *(
            _measurement(f"length_{axis}", f"Length of box along {axis} of the scan", value, codes.UCUM.Millimeter)
            for axis, value in zip("ijk", lengths_mm.round(4).tolist(), strict=True)
        ),
        highdicom.sr.Measurement(
            codes.SCT.Volume, float(round(float(lengths_mm.prod()), 3)), codes.UCUM.CubicMillimeter
        ),
    ]
    surface = highdicom.sr.VolumeSurface(
        graphic_type=highdicom.sr.GraphicTypeValues3D.POLYGON,
        graphic_data=_faces(prediction, row),
        frame_of_reference_uid=str(header.FrameOfReferenceUID),
        source_series=highdicom.sr.SourceSeriesForSegmentation(str(header.SeriesInstanceUID)),
    )
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=tracking_uid(headers, prediction, row), identifier=f"{name} {row + 1}"
        ),
        referenced_volume_surface=surface,
        finding_type=highdicom.sr.CodedConcept(f"class_{int(prediction.labels[row])}", SCHEME, name[:64]),
        algorithm_id=highdicom.sr.AlgorithmIdentification(MANUFACTURER, medpretrain3d.__version__),
        measurements=measured,
    )


def _measurement(value: str, meaning: str, number: float, unit: Any) -> Any:
    import highdicom

    return highdicom.sr.Measurement(highdicom.sr.CodedConcept(value, SCHEME, meaning), number, unit)


def _faces(prediction: Prediction, row: int) -> list[np.ndarray]:
    """Return the two faces of a box across the scan's slices, closed polygons (5, 3) in LPS mm."""
    i0, j0, k0, i1, j1, k1 = prediction.boxes_vox[row] - 0.5  # edge e lies at index e - 0.5
    affine = prediction.grid.affine_lps
    corners = [(i0, j0), (i1, j0), (i1, j1), (i0, j1), (i0, j0)]
    return [np.array([affine[:3, :3] @ (i, j, k) + affine[:3, 3] for i, j in corners]) for k in (k0, k1)]


@CASE_WRITERS.register("dicom-sr")
def write_report(folder: Path, classes: Sequence[str], prediction: Prediction) -> None:
    """Write `dicom-sr/<case>.dcm`.

    Raises:
        UserError: highdicom is missing, the scan was no DICOM series, or the folder cannot be written.
    """
    write_dicom(folder / "dicom-sr" / f"{plain_name(prediction.case, 'case id')}.dcm", report(classes, prediction))
