"""LIDC-IDRI: lung nodules in 1,018 CTs, outlined by up to four readers each (Armato et al., 2011).

A nodule is an object where at least `min_readers` of the readers outlined it; its box is the mean of theirs. Nodules of
fewer readers, nodules below 3 mm and non-nodules, which readers mark by a point, are ignore regions (points: 10 mm).
Which outlines are one nodule: `consensus.py`. Outlines run on the first pixel outside the nodule, so a box ends one
pixel before them.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import BoxAnnotation, ObjectAnnotation, SphereAnnotation
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.consensus import ReaderMark, agreement, group_marks
from medpretrain3d.ingest.importers.files import dicom_series, find_files, flag
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers.dicom_slice import header_text

POINT_MM = 10.0
"""Diameter of the ignore region around a finding of which only a point is known."""
MAX_COORDINATE = 1e5
"""Pixels or millimetres; no scanner is larger."""
PIXEL_MM = 0.68
"""Pixel spacing by which distances between outlines are judged; the median of the data set, of 0.46 to 0.98."""


def read_lidc_idri(raw: Path, min_readers: int = 3) -> RawDataset:
    """Read the layout.

    Args:
        raw: the folder.
        min_readers: agreement level, 1 to 4.

    Raises:
        Misplaced: no .dcm or no .xml file below the folder.
        UserError: a damaged XML file, or another agreement level.
    """
    if not 1 <= min_readers <= 4:
        raise UserError(f"min_readers {min_readers}: four readers read every scan; give 1 to 4")
    series = dicom_series(raw)
    if not series:
        raise Misplaced("no .dcm file")
    readings = dict(_readings(raw))
    if not readings:
        raise Misplaced("no .xml file with a LIDC reading")
    cases, leftovers = [], []
    for folder in series:
        place = folder.relative_to(raw).as_posix()
        try:
            uid = folder.name if folder.name in readings else _series_uid(folder)
        except UserError as error:
            cases.append(RawCase(place.replace("/", "__"), (folder,), problem=str(error)))
            continue
        if uid not in readings:  # as the chest radiographs of the tree, which nobody outlined
            leftovers.append(Leftover(place, "series that no reading names"))
        else:
            path, reading = readings[uid]
            try:
                objects, ignored = findings(reading, min_readers)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            patient = next((part for part in folder.relative_to(raw).parts if part.startswith("LIDC-IDRI-")), None)
            cases.append(RawCase(uid, (folder,), annotations=objects, ignore=ignored, patient=patient))
    met = {case.id for case in cases}
    leftovers += [Leftover(uid, "readings whose series is not there") for uid in readings if uid not in met]
    if not met & set(readings):
        raise UserError(
            f"{raw}: none of the {len(readings)} readings is of one of the {len(series)} series; download the images "
            "of the readings, or the XML files of the images"
        )
    return RawDataset(
        ("nodule",),
        tuple(sorted(cases, key=lambda case: case.id)),
        channel_names=("CT",),
        leftovers=tuple(leftovers),
    )


def findings(
    reading: ET.Element, min_readers: int
) -> tuple[tuple[ObjectAnnotation, ...], tuple[ObjectAnnotation, ...]]:
    """Return objects and ignore regions of one scan's reading.

    Raises:
        UserError: something is missing in it, or not a number.
    """
    outlines: list[ReaderMark] = []
    boxes: list[BoxAnnotation] = []
    objects: list[ObjectAnnotation] = []
    ignored: list[ObjectAnnotation] = []
    for reader, session in enumerate(reading.iter("readingSession")):
        for nodule in session.iter("unblindedReadNodule"):
            rois = [
                _roi(roi) for roi in nodule.iter("roi") if flag(_text(roi, "inclusion"), "inclusion of a LIDC reading")
            ]
            if any(len(points) > 1 for points, _ in rois):
                boxes.append(_box(rois))
                outlines.append(ReaderMark(reader, _in_mm(boxes[-1], [z_mm for _, z_mm in rois])))
            elif rois:  # a nodule below 3 mm is one point
                ignored.append(_point(*rois[0]))
        ignored += [_point(*_roi(other, "locus")) for other in session.iter("nonNodule")]
    for group in group_marks(outlines):
        is_agreed = agreement([outlines[index] for index in group]) >= min_readers
        (objects if is_agreed else ignored).append(_mean([boxes[index] for index in group]))
    return tuple(objects), tuple(ignored)


def _mean(boxes: list[BoxAnnotation]) -> BoxAnnotation:
    """Return the mean box. A mean of slices need not be one: the nearest of those that some reader chose is taken."""
    low, high = (np.mean([getattr(box, end) for box in boxes], axis=0).tolist() for end in ("low", "high"))
    slices_mm = sorted({z_mm for box in boxes for z_mm in (box.low[2], box.high[2])})
    first, last = (min(slices_mm, key=lambda z_mm: abs(z_mm - mean[2])) for mean in (low, high))
    return BoxAnnotation((low[0], low[1], first), (high[0], high[1], last), "slices")


def _roi(roi: ET.Element, point: str = "edgeMap") -> tuple[np.ndarray, float]:
    """Return points (N, 2) of an outline as column and row, and the z of its slice in mm."""
    points = [[_number(edge, "xCoord"), _number(edge, "yCoord")] for edge in roi.iter(point)]
    if not points:
        raise UserError(f"a LIDC reading has a {roi.tag} without {point}; download the XML files again")
    return np.array(points).reshape(-1, 2), _number(roi, "imageZposition")


def _box(rois: list[tuple[np.ndarray, float]]) -> BoxAnnotation:
    points = np.concatenate([points for points, _ in rois])
    low, high = points.min(axis=0) + 1, points.max(axis=0)
    low, high = np.minimum(low, high - 1), np.maximum(high, low)  # never less than the one pixel of a thin outline
    slices_mm = [z_mm for _, z_mm in rois]
    return BoxAnnotation((*low.tolist(), min(slices_mm)), (*high.tolist(), max(slices_mm)), "slices")


def _in_mm(box: BoxAnnotation, slices_mm: list[float]) -> tuple[float, ...]:
    """Return nearly in millimetres, which is enough to tell which outlines are one nodule."""
    planes = np.unique(slices_mm)
    thickness_mm = float(np.diff(planes).min()) if len(planes) > 1 else 1.0
    low, high = np.array(box.low), np.array(box.high)
    low[:2] *= PIXEL_MM
    high[:2] *= PIXEL_MM
    return (*low[:2].tolist(), low[2] - thickness_mm / 2, *high[:2].tolist(), high[2] + thickness_mm / 2)


def _point(points: np.ndarray, z_mm: float) -> SphereAnnotation:
    """Return the region around a finding of which one point is marked."""
    column, row = (points[0] + 0.5).tolist()
    return SphereAnnotation((column, row, z_mm), POINT_MM, "slices")


def _readings(raw: Path) -> Iterator[tuple[str, tuple[Path, ET.Element]]]:
    for path in find_files(raw, "*.xml"):
        try:
            root = ET.parse(path).getroot()
        except (ET.ParseError, ValueError, LookupError) as error:  # of an unknown encoding
            raise UserError(f"{path}: is not valid XML ({error}); download it again") from error
        for element in root.iter():  # one namespace for all, which says nothing
            element.tag = element.tag.rpartition("}")[2]
        uid = root.findtext(".//ResponseHeader/SeriesInstanceUid")
        if uid and root.find("readingSession") is not None:  # radiographs have readings of another kind
            yield uid.strip(), (path, root)


def _text(element: ET.Element, name: str) -> str:
    text = element.findtext(name)
    if text is None:
        raise UserError(f"a LIDC reading lacks {name} in {element.tag}; download the XML files again")
    return text.strip()


def _number(element: ET.Element, name: str) -> float:
    text = _text(element, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < MAX_COORDINATE:
        raise UserError(f"a LIDC reading has the {name} '{text[:50]}'; download the XML files again")
    return value


def _series_uid(folder: Path) -> str:
    """Read the UID of a series whose folder has another name, from the header of its first file."""
    return header_text(min(folder.glob("*.dcm")), "0020|000e")


LAYOUTS = (
    Layout(
        name="lidc_idri",
        kind="detection",
        classes=("nodule",),
        licence="CC BY 3.0",
        wanted="""  RAW/LIDC-IDRI-0001/<study>/<series>/*.dcm   (patients may lie one folder deeper)
  RAW/**/*.xml                                (readings, beside the images or from LIDC-XML-only.zip)""",
        patterns=("**/LIDC-IDRI-*/", "**/*.xml"),
        read=read_lidc_idri,
        page="""\
Lung nodules in 1,018 CTs of 1,010 patients, outlined by up to four readers (Armato et al., 2011).
Get it: The Cancer Imaging Archive, collection LIDC-IDRI, with the readings (`LIDC-XML-only.zip`, or beside the
images).
Licence: CC BY 3.0.
Errata: eight patients have two CTs; they stay in one fold. Chest radiographs in the tree are left out. Some series
lack slices or have two at one place; `prepare` skips those with the reason.

```
RAW/LIDC-IDRI/LIDC-IDRI-0001/<study>/<series>/*.dcm
RAW/**/*.xml
```

`--option min_readers=3` is the agreement level, 1 to 4 (3 is LUNA16's). **Consensus rule:** two outlines are one
nodule when their centres are closer than the larger radius of the two, and so are all outlines that such pairs
connect; the readers of a group are counted once each; the box is the mean of the outlines' boxes, from the first to
the last slice nearest to the mean. On all 1,018 scans the grouping is that of pylidc for more than 99 % of 2,651
nodules (`tests/ingest/test_dicom_importers.py`). Nodules of fewer readers, nodules below 3 mm and non-nodules become
ignore regions, points with a diameter of 10 mm. Outlines run on the first pixel outside the nodule, so a box ends one
pixel before them.""",
    ),
)
