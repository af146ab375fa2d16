"""Scans with a table of boxes, or of centres and diameters.

RAW/boxes.csv   one row per object; the names of its columns say the frame, so nothing has to be guessed
RAW/**          the scans

| columns | meaning |
|---|---|
| image | path of the scan below RAW (a folder for a DICOM series); a row with nothing else is a scan without objects |
| label | name of the class; without this column every object is an `object` |
| x0_F y0_F z0_F x1_F y1_F z1_F | the box, lowest corner first |
| x_F y_F z_F and diameter_vox or diameter_mm | or its centre and diameter |
| ignore | 1 for a region in which finding something is neither right nor wrong |
| patient, split | optional, the same in every row of a scan; split is train, val or test |

The frame F is `vox` (voxels of the file's own array, half-open: the first voxel is [0, 1) and its middle 0.5), `lps_mm`
(DICOM, ITK) or `ras_mm` (NIfTI, 3D Slicer). A scan that no row names is unlabelled.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.files import below, case_id_of, number, read_csv
from medpretrain3d.data.importers.folder import read_folder
from medpretrain3d.data.importers.layout import Layout, need
from medpretrain3d.data.importers.marks import BoxMark, Frame, Mark, SphereMark
from medpretrain3d.errors import UserError

TABLE = "boxes.csv"
FRAME_OF: dict[str, tuple[Frame, float]] = {"vox": ("voxels", 1), "lps_mm": ("lps_mm", 1), "ras_mm": ("lps_mm", -1)}
"""Per ending of the columns: the frame, and the sign that turns x and y to it."""
SPLITS = ("train", "val", "test")


def read_boxes_csv(raw: Path) -> RawDataset:
    """Read the layout.

    Raises:
        UserError: a column is missing, a cell is no number, or a path leads out of the folder.
    """
    table = need(raw / TABLE)
    rows_of: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in read_csv(table, ["image"]):
        rows_of[row["image"]].append(row)
    marked = [row for rows in rows_of.values() for row in rows if not _is_bare(row)]
    classes = tuple(sorted({row.get("label") or "object" for row in marked if row.get("ignore") != "1"}))
    if not classes:
        raise UserError(f"{table}: no row holds an object; for scans alone use --dataset folder")
    cases = [_case(raw, image, rows, classes) for image, rows in rows_of.items()]
    named = {case.images[0] for case in cases}
    rest = [case for case in read_folder(raw).cases if not named & set(case.images)]
    cases += [replace(case, split="unlabelled") for case in rest]
    return RawDataset(classes, tuple(sorted(cases, key=lambda case: case.id)))


def _case(raw: Path, image: str, rows: list[dict[str, str]], classes: tuple[str, ...]) -> RawCase:
    path = below(raw, image)
    told = {name: {row.get(name, "") for row in rows} for name in ("patient", "split")}
    for name, values in told.items():
        if len(values) > 1:
            raise UserError(f"{raw / TABLE}: {image} has {name} {' and '.join(sorted(values))}; keep one of them")
    (patient,), (split,) = told["patient"], told["split"]
    if split not in ("", *SPLITS):
        raise UserError(f"{raw / TABLE}: {image} is in split {split!r}, wanted {', '.join(SPLITS)}")
    marks: dict[bool, list[Mark]] = {False: [], True: []}
    for row in rows:
        if not _is_bare(row):
            is_ignored = row.get("ignore") == "1"
            label = 0 if is_ignored else classes.index(row.get("label") or "object")
            marks[is_ignored].append(_mark(raw / TABLE, row, label))
    return RawCase(
        case_id_of(path, raw),
        (path,),
        marks=tuple(marks[False]),
        ignore=tuple(marks[True]),
        patient=patient or None,
        split=split or "train",
        problem="" if path.exists() else f"{TABLE} names {image}, which is not there",
    )


def _is_bare(row: dict[str, str]) -> bool:
    return not any(value for name, value in row.items() if name not in ("image", "patient", "split"))


def _mark(table: Path, row: dict[str, str], label: int) -> Mark:
    """The object of a row. In RAS, x and y point the other way, so that lowest and highest change places."""
    suffix = next((one for one in FRAME_OF if row.get(f"x0_{one}") or row.get(f"x_{one}")), None)
    if suffix is None:
        raise UserError(f"{table}: neither a box (x0_vox, x0_lps_mm, ...) nor a centre (x_vox, ...); row {row}")
    frame, sign = FRAME_OF[suffix]
    if row.get(f"x0_{suffix}"):
        x0, y0, z0, x1, y1, z1 = (number(table, row, f"{axis}{end}_{suffix}") for end in "01" for axis in "xyz")
        if sign < 0:
            x0, y0, x1, y1 = -x1, -y1, -x0, -y0
        return BoxMark((x0, y0, z0), (x1, y1, z1), frame, label)
    x, y, z = (number(table, row, f"{axis}_{suffix}") for axis in "xyz")
    if row.get("diameter_mm"):
        return SphereMark((x * sign, y * sign, z), number(table, row, "diameter_mm"), frame, label)
    if frame == "voxels" and row.get("diameter_vox"):
        half = number(table, row, "diameter_vox") / 2
        return BoxMark((x - half, y - half, z - half), (x + half, y + half, z + half), frame, label)
    wanted = "diameter_mm or diameter_vox" if frame == "voxels" else "diameter_mm"
    raise UserError(f"{table}: a centre without {wanted}; row {row}")


LAYOUTS = (
    Layout(
        name="boxes_csv",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/boxes.csv   (image, label, x0_vox ... z1_vox, or x_lps_mm, y_lps_mm, z_lps_mm, diameter_mm, ...)
  RAW/**          (the scans it names)""",
        signs=("boxes.csv",),
        read=read_boxes_csv,
    ),
)
