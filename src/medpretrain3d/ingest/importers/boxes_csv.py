"""Scans with a table of boxes, or of centres with diameters or without.

RAW/boxes.csv   one row per object; the names of its columns say the frame, so nothing has to be guessed. Any other name
                of a .csv or .tsv file will do
RAW/**          the scans

| columns | meaning |
|---|---|
| image | path of the scan below RAW, see below; a row with nothing else is a scan without objects |
| label | name of the class, of every object or of none; without this column every object is an `object` |
| x0_F y0_F z0_F x1_F y1_F z1_F | the box, lowest corner first |
| x_F y_F z_F and diameter_vox or diameter_mm | or its centre and diameter; without a diameter it is a point |
| ignore | 1, true or yes for a region in which finding something is ignored; 0, false, no or empty |
| patient, split | optional, the same in every row of a scan; split is train, val or test |

Columns may be written in any case. A DICOM series is named by its folder or by any of its files, which means all of it.

The frame F is `vox` (voxels of the file's own array, half-open: the first voxel is [0, 1) and its middle 0.5), `lps_mm`
(DICOM, ITK) or `ras_mm` (NIfTI, 3D Slicer). A scan that no row names is unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import (
    BoxAnnotation,
    Frame,
    ObjectAnnotation,
    PointAnnotation,
    SphereAnnotation,
)
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import flag, number, read_csv
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.ingest.importers.named_scans import NamedScans
from medpretrain3d.ingest.importers.tables import columns_of, tables_in

TABLE = "boxes.csv"
FRAME_OF: dict[str, tuple[Frame, float]] = {"vox": ("voxels", 1), "lps_mm": ("lps_mm", 1), "ras_mm": ("lps_mm", -1)}
"""Per ending of the columns: the frame, and the sign that turns x and y to it."""
SPLITS = ("train", "val", "test")
_PLACE = re.compile(r"[xyz][01]?_(vox|lps_mm|ras_mm)")
_OTHER = ("image", "label", "ignore", "patient", "split", "diameter_mm", "diameter_vox")
_LABEL = re.compile(r"(class|category|label|type)([ _-]?(name|id|label))?|name")
"""What others call the column `label`."""


def read_boxes_csv(raw: Path) -> RawDataset:
    """Read the layout.

    Raises:
        Misplaced: no such table.
        UserError: several of them, a column is missing, a cell is no number, some objects have a label and others none,
            a path leads out of the folder, or no row meets a scan.
    """
    found = _tables(raw)
    if not found:
        raise Misplaced(f"{TABLE} is missing")
    if len(found) > 1:
        raise UserError(f"{raw}: {found[0].name} and {found[1].name} are both tables of boxes; keep one")
    table = found[0]
    rows = _rows(table)
    marked = [row for row in rows if not _is_bare(row)]
    objects = [row for row in marked if not _is_ignored(table, row)]
    classes = tuple(sorted({_label(row) for row in objects}))
    if not classes:
        raise UserError(f"{table}: no row holds an object; for scans alone use --dataset folder")
    _check_labels(table, objects)
    scans = NamedScans(raw)
    images, unmet = _images(table, rows, scans)
    case_of = scans.cases(images.values())
    rows_of: dict[Path, tuple[RawCase, list[Mapping[str, str]]]] = {}
    for row in rows:
        case = case_of[images[row["image"]]]
        rows_of.setdefault(case.images[0], (case, []))[1].append(row)
    cases = [_case(table, case, of_scan, classes) for case, of_scan in rows_of.values()]
    cases += [replace(case, split="unlabelled") for case in scans.others(images.values())]
    unread = _unread(columns_of(table))
    leftovers = [*unmet, *(Leftover(name, f"columns of {table.name} that have no meaning here") for name in unread)]
    return RawDataset(
        classes,
        tuple(sorted(cases, key=lambda case: case.id)),
        tables=(table,),
        leftovers=tuple(leftovers),
        recognised_by=f"it has {table.name}",
    )


def _tables(raw: Path) -> list[Path]:
    if (raw / TABLE).exists():
        return [raw / TABLE]
    return [
        path
        for path in tables_in(raw)
        if "image" in (names := [one.lower() for one in columns_of(path)]) and any(map(_PLACE.fullmatch, names))
    ]


def _rows(table: Path) -> list[dict[str, str]]:
    """Return the rows by column name in lower case.

    Raises:
        UserError: no column `image`, columns that differ in case only, or a column of classes that is not `label`.
    """
    names = columns_of(table)
    lower = [name.lower() for name in names]
    if twice := next((name for name in lower if name and lower.count(name) > 1), ""):
        raise UserError(f"{table}: has the column {twice} twice; keep one")
    classes = [name for name in _unread(names) if _LABEL.fullmatch(name.lower())]
    if classes and "label" not in lower:
        raise UserError(
            f"{table}: has no column label; call {classes[0]!r} so if it names the classes, or leave it out"
        )
    return [
        {name.lower(): cell for name, cell in row.items()}
        for row in read_csv(table, [name for name in names if name.lower() == "image"] or ["image"])
    ]


def _unread(names: Sequence[str]) -> list[str]:
    return [name for name in names if name and name.lower() not in _OTHER and not _PLACE.fullmatch(name.lower())]


def _images(
    table: Path, rows: Sequence[Mapping[str, str]], scans: NamedScans
) -> tuple[dict[str, Path], list[Leftover]]:
    """Return the scan that each name in the column `image` means; where there is none, the path of that name."""
    place_of = {scan.images[0].relative_to(scans.raw).as_posix(): scan.images[0] for scan in scans.scans}
    written = {row["image"]: scans.path(row["image"]) for row in rows}
    elsewhere = [name for name, path in written.items() if not path.exists()]
    if len(elsewhere) < len(written):  # some meet their scan by path: the others may, by likeness
        ids = ScanIds(place_of)
        found = {name: scan for name in elsewhere if (scan := ids.find(name)) is not None}
    else:
        found = ScanIds(place_of).meet(table, list(written))[0]
    likeness = f"names of {table.name} that meet their scan by likeness"
    message = [Leftover(f"{name} for {scan}", likeness, is_used=True) for name, scan in found.items()]
    return written | {name: place_of[scan] for name, scan in found.items()}, message


def _case(table: Path, scan: RawCase, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> RawCase:
    image = rows[0]["image"]
    message = {name: {row.get(name, "") for row in rows} for name in ("patient", "split")}
    for name, values in message.items():
        if len(values) > 1:
            raise UserError(f"{table}: {image} has {name} {' and '.join(sorted(values))}; keep one of them")
    (patient,), (split,) = message["patient"], message["split"]
    if split not in ("", *SPLITS):
        raise UserError(f"{table}: {image} is in split {split!r}, wanted {', '.join(SPLITS)}")
    annotations: dict[bool, list[ObjectAnnotation]] = {False: [], True: []}
    for row in rows:
        if not _is_bare(row):
            is_ignored = _is_ignored(table, row)
            label = 0 if is_ignored else classes.index(_label(row))
            annotations[is_ignored].append(_mark(table, row, label))
    return replace(
        scan,
        annotations=tuple(annotations[False]),
        ignore=tuple(annotations[True]),
        patient=patient or scan.patient,
        split=split or "train",
        problem="" if scan.images[0].exists() else f"{table.name} names {image}, which is not there",
    )


def _label(row: Mapping[str, str]) -> str:
    return row.get("label") or "object"


def _check_labels(table: Path, objects: Sequence[Mapping[str, str]]) -> None:
    """Refuse a table that names the classes of some objects only: the others would be a class of their own."""
    bare = [row for row in objects if not row.get("label")]
    if 0 < len(bare) < len(objects):
        raise UserError(
            f"{table}: {len(bare)} of {len(objects)} objects have no label, first one of {bare[0]['image']}; name the "
            "class of each, or leave the column out for a single class"
        )


def _is_ignored(table: Path, row: Mapping[str, str]) -> bool:
    return flag(row.get("ignore"), f"{table}: ignore of {row['image']}")


def _is_bare(row: Mapping[str, str]) -> bool:
    """Return whether a row says nothing of an object. `ignore` says something only with a place."""
    message = [name for name in row if _PLACE.fullmatch(name) or name in ("label", "diameter_mm", "diameter_vox")]
    return not any(row[name] for name in message)


def _mark(table: Path, row: Mapping[str, str], label: int) -> ObjectAnnotation:
    """Return the object of a row. In RAS, x and y point the other way, so that lowest and highest change places."""
    suffix = next((one for one in FRAME_OF if row.get(f"x0_{one}") or row.get(f"x_{one}")), None)
    if suffix is None:
        raise UserError(f"{table}: neither a box (x0_vox, x0_lps_mm, ...) nor a centre (x_vox, ...); row {row}")
    frame, pattern = FRAME_OF[suffix]
    if row.get(f"x0_{suffix}"):
        x0, y0, z0, x1, y1, z1 = (number(table, row, f"{axis}{end}_{suffix}") for end in "01" for axis in "xyz")
        if pattern < 0:
            x0, y0, x1, y1 = -x1, -y1, -x0, -y0
        return BoxAnnotation((x0, y0, z0), (x1, y1, z1), frame, label)
    x, y, z = (number(table, row, f"{axis}_{suffix}") for axis in "xyz")
    if row.get("diameter_mm"):
        return SphereAnnotation((x * pattern, y * pattern, z), number(table, row, "diameter_mm"), frame, label)
    if frame == "voxels" and row.get("diameter_vox"):
        half = number(table, row, "diameter_vox") / 2
        return BoxAnnotation((x - half, y - half, z - half), (x + half, y + half, z + half), frame, label)
    if row.get("diameter_vox"):
        raise UserError(f"{table}: a centre in {suffix} with diameter_vox, wanted diameter_mm or none; row {row}")
    if _is_ignored(table, row):
        raise UserError(f"{table}: an ignore region without diameter_mm; give its size; row {row}")
    return PointAnnotation((x * pattern, y * pattern, z), frame, label)


def _is_table(path: Path) -> bool:
    return len(path.parts) == 1 and path.suffix.lower() in (".csv", ".tsv")


LAYOUTS = (
    Layout(
        name="boxes_csv",
        kind="generic",
        is_described=True,
        classes=(),
        licence="as the data",
        wanted="""  RAW/boxes.csv   (image, label, x0_vox ... z1_vox, or x_lps_mm, y_lps_mm, z_lps_mm, diameter_mm, ...)
  RAW/**          (the scans it names)""",
        patterns=(_is_table,),
        read=read_boxes_csv,
        contradiction=lambda raw: "" if _tables(raw) else "-",
        page="""\
Scans of any format and a table of boxes, or of centres with diameters or without. The columns' names say the frame.

```
RAW/boxes.csv       any other name will do for a .csv or .tsv file with these columns
RAW/**
```

| columns | meaning |
|---|---|
| `image` | path of the scan below RAW; a row with no more is a scan without objects |
| `label` | name of the class, of every object or of none; without this column every object is an `object` |
| `x0_F y0_F z0_F x1_F y1_F z1_F` | the box, lowest corner first |
| `x_F y_F z_F` with `diameter_mm` or `diameter_vox` | or its centre and diameter; without either a point |
| `ignore` | 1, true or yes for an ignore region; 0, false, no or nothing for an object; any other word is an error |
| `patient`, `split` | optional, the same in every row of a scan; split is train, val or test |

Columns may be written in any case; one that names classes is called `label`, another name for it is an error. A DICOM
series is named by its folder or by any of its files; each of them means the whole series.

F is `vox` (voxels of the file's own array, half-open: the first voxel is [0, 1) and its middle 0.5), `lps_mm` (DICOM,
ITK) or `ras_mm` (NIfTI, 3D Slicer). Scans that no row names are unlabelled. Semicolons or tabs may part the cells,
decimals may have commas; a cell `nan`, `NA`, `N/A` or `null` is an empty one.""",
    ),
)
