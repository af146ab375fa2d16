"""Duke Breast Cancer MRI: one box around the largest tumour in 922 breast MRIs (Saha et al., 2018).

Boxes are on the first contrast phase. The table counts rows, columns and slices from 1, slices as the files of a series
are numbered; both ends are inside. The series runs in either direction, so the z of a slice is taken from its file.
Further tumours of a patient carry no box: findings outside the box are not certainly wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import BoxAnnotation
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import dicom_series, find_files, number, read_csv, whole
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.ingest.importers.xlsx import read_xlsx
from medpretrain3d.store.readers.dicom_slice import header_text

BOXES, MAPPING = "Annotation_Boxes", "Breast-Cancer-MRI-filepath_filename-mapping"
PHASE = "post_1"
EDGES = ("Start Column", "Start Row", "Start Slice", "End Column", "End Row", "End Slice")


def read_duke_breast_mri(raw: Path) -> RawDataset:
    """Read the layout. The tables may be the .xlsx files of the archive or their export as .csv.

    Raises:
        Misplaced: a table or every series is missing.
        UserError: a damaged table, or .xlsx tables without the library that reads them.
    """
    boxes_file, mapping_file = _table(raw, BOXES), _table(raw, MAPPING)
    series_of = _first_phase(raw, mapping_file)
    cases = []
    rows = list(_rows(boxes_file, ["Patient ID", *EDGES]))
    num_rows = Counter(row["Patient ID"] for row in rows)
    for patient, row in {row["Patient ID"]: row for row in rows}.items():
        if num_rows[patient] > 1:
            cases.append(RawCase(patient, (), problem=f"{boxes_file.name} has several rows of it; keep one"))
            continue
        series = series_of.get(patient)
        if series is None:
            cases.append(RawCase(patient, (), problem=f"no series of phase {PHASE} below {raw.name}"))
            continue
        x0, y0, x1, y1 = (number(boxes_file, row, column) for column in EDGES if "Slice" not in column)
        first, last = (whole(boxes_file, row, column) for column in EDGES if "Slice" in column)
        try:
            planes_mm = [_slice_z_mm(series, slice_number) for slice_number in (first, last)]
        except UserError as error:
            cases.append(RawCase(patient, (series,), problem=str(error)))
            continue
        box = BoxAnnotation((x0 - 1, y0 - 1, planes_mm[0]), (x1, y1, planes_mm[1]), "slices")
        cases.append(RawCase(patient, (series,), annotations=(box,), patient=patient))
    boxed = list(num_rows)
    if not set(boxed) & set(series_of):
        raise UserError(
            f"{boxes_file}: none of its {len(rows)} rows meets a series of phase {PHASE}: it names "
            f"'{next(iter(boxed), '')}', series are of '{next(iter(series_of), '')}'; write ids as folders are called"
        )
    leftovers = [
        Leftover(one, f"series that no row of {boxes_file.name} names") for one in series_of if one not in boxed
    ]
    return RawDataset(
        ("tumor",),
        tuple(cases),
        channel_names=("T1 first contrast phase",),
        tables=(boxes_file, mapping_file),
        leftovers=tuple(leftovers),
    )


def _table(raw: Path, name: str) -> Path:
    found = next((path for ending in (".csv", ".xlsx") for path in find_files(raw, f"{name}*{ending}")), None)
    if found is None:
        raise Misplaced(f"{name}.xlsx is missing")
    return found


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, str]]:
    yield from read_csv(path, columns) if path.suffix == ".csv" else read_xlsx(path, columns)


def _first_phase(raw: Path, mapping: Path) -> dict[str, Path]:
    """The folder of each patient's first contrast phase: the mapping tells it by the series' UID or description."""
    folders = {(folder.parent.parent.name, folder.name): folder for folder in dicom_series(raw)}
    if not folders:
        raise Misplaced("no .dcm file")
    series_of: dict[str, Path] = {}
    for row in _rows(mapping, ["original_path_and_filename", "classic_path", "descriptive_path"]):
        if f"/{PHASE}/" not in row["original_path_and_filename"].replace("\\", "/"):
            continue
        for column in ("classic_path", "descriptive_path"):
            parts = row[column].replace("\\", "/").split("/")
            if len(parts) >= 4 and (parts[-4], parts[-2]) in folders:
                series_of[parts[-4]] = folders[parts[-4], parts[-2]]
    return series_of


def _slice_z_mm(series: Path, slice_number: int) -> float:
    """Return the z of the slice with a number, as the file names end on: `1-057.dcm` is slice 57."""
    file = next(
        (path for path in series.glob("*.dcm") if path.stem.split("-")[-1].lstrip("0") == str(slice_number)), None
    )
    if file is None:
        raise UserError(f"{series.name} has no file of slice {slice_number}")
    return float(header_text(file, "0020|0032").split("\\")[2])


LAYOUTS = (
    Layout(
        name="duke_breast_mri",
        kind="detection",
        classes=("tumor",),
        licence="CC BY-NC 4.0",
        wanted=f"""  RAW/**/Breast_MRI_001/<study>/<series>/1-001.dcm
  RAW/{BOXES}.xlsx   (or .csv)
  RAW/{MAPPING}.xlsx   (or .csv)""",
        patterns=(f"**/{BOXES}*",),
        read=read_duke_breast_mri,
        page="""\
One box around the largest tumour in 922 breast MRIs (Saha et al., 2018).
Get it: The Cancer Imaging Archive, collection Duke-Breast-Cancer-MRI: images, `Annotation_Boxes.xlsx` and
`Breast-Cancer-MRI-filepath_filename-mapping.xlsx`. The tables are read with the extra `tables`, or exported as .csv
without it.
Licence: CC BY-NC 4.0.
Errata: further tumours carry no box. Series run in either direction; slices are counted as the files are numbered.
Taken as counted from 1 with both ends inside. Values have no unit, as in all MR.

```
RAW/**/Breast_MRI_001/<study>/<series>/1-001.dcm
RAW/Annotation_Boxes.xlsx
RAW/Breast-Cancer-MRI-filepath_filename-mapping.xlsx
```

Only the first contrast phase (`post_1`), on which the boxes were drawn, is prepared.""",
    ),
)
