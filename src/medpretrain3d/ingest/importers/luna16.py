"""LUNA16: lung nodules in 888 CTs of LIDC-IDRI, accepted by at least three of four readers (Setio et al., 2017).

Nodules are spheres, given by centre and diameter in world millimetres; there are no masks. Findings that fewer readers
accepted, non-nodules and nodules below 3 mm are ignore regions; where the list gives no diameter, 10 mm, as the
challenge's evaluation has it. Fold k tests on subset k, validates on subset k + 1 and trains on the other eight.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotations import ObjectAnnotation, SphereAnnotation
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import find_files, number, read_csv
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.importers.layout import Layout, Misplaced, require

NUM_SUBSETS = 10
UNKNOWN_DIAMETER_MM = 10.0
COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
EXCLUDED = ("annotations_excluded.csv", "evaluationScript/annotations/annotations_excluded.csv")


def read_luna16(raw: Path, fold: int = 0) -> RawDataset:
    """Read the layout; a part of the ten subsets will do.

    Raises:
        Misplaced: a table or every subset is missing.
        UserError: a damaged table, or a fold that is not 0 to 9.
    """
    if not 0 <= fold < NUM_SUBSETS:
        raise UserError(f"fold {fold}: LUNA16 has {NUM_SUBSETS} folds, counted from 0")
    table = require(raw / "annotations.csv")
    excluded = next((raw / name for name in EXCLUDED if (raw / name).is_file()), None)
    if excluded is None:
        raise Misplaced("annotations_excluded.csv is missing; it comes with the challenge's evaluation script")
    subset_of = {path: k for k in range(NUM_SUBSETS) for path in find_files(raw / f"subset{k}", "*.mhd")}
    if not subset_of:
        raise Misplaced("no .mhd file in subset0 to subset9")
    scans = ScanIds(path.stem for path in subset_of)
    nodules, unmet = _spheres(table, scans)
    ignored, unmet_excluded = _spheres(excluded, scans, unknown_diameter_mm=UNKNOWN_DIAMETER_MM)
    folds = tuple(_fold(k, {path.stem: subset for path, subset in subset_of.items()}) for k in range(NUM_SUBSETS))
    split_of = {uid: split for split, uids in folds[fold].items() for uid in uids}
    cases = [
        RawCase(
            path.stem,
            (path,),
            annotations=tuple(nodules[path.stem]),
            ignore=tuple(ignored[path.stem]),
            split=split_of[path.stem],
        )
        for path in subset_of
    ]
    return RawDataset(
        ("nodule",),
        tuple(cases),
        channel_names=("CT",),
        folds=folds,
        tables=(table, excluded),
        leftovers=(*unmet, *unmet_excluded),
    )


def _spheres(
    table: Path, scans: ScanIds, unknown_diameter_mm: float | None = None
) -> tuple[defaultdict[str, list[ObjectAnnotation]], list[Leftover]]:
    """Return the spheres of each scan, and the rows that meet none."""
    rows = read_csv(table, COLUMNS)
    scan_of, unmet = scans.meet(table, [row["seriesuid"] for row in rows])
    spheres: defaultdict[str, list[ObjectAnnotation]] = defaultdict(list)
    for row in rows:
        x, y, z, diameter_mm = (number(table, row, column) for column in COLUMNS[1:])
        if diameter_mm <= 0 and unknown_diameter_mm is None:
            raise UserError(f"{table}: diameter_mm is {row['diameter_mm']!r}, wanted more than 0; row {row}")
        if row["seriesuid"] in scan_of:
            diameter_mm = diameter_mm if diameter_mm > 0 else unknown_diameter_mm or 0.0
            spheres[scan_of[row["seriesuid"]]].append(SphereAnnotation((x, y, z), diameter_mm))
    return spheres, unmet


def _fold(fold: int, subset_of: dict[str, int]) -> dict[str, tuple[str, ...]]:
    part = {"test": fold, "val": (fold + 1) % NUM_SUBSETS}
    split_of = {
        uid: next((name for name, k in part.items() if k == subset), "train") for uid, subset in subset_of.items()
    }
    return {name: tuple(uid for uid, own in split_of.items() if own == name) for name in ("train", "val", "test")}


LAYOUTS = (
    Layout(
        name="luna16",
        kind="detection",
        classes=("nodule",),
        licence="CC BY 4.0 (images: CC BY 3.0, LIDC-IDRI)",
        wanted="""  RAW/annotations.csv
  RAW/annotations_excluded.csv   (or evaluationScript/annotations/annotations_excluded.csv)
  RAW/subset0/<seriesuid>.mhd, <seriesuid>.raw
  ...
  RAW/subset9""",
        patterns=("annotations.csv", "subset*/*.mhd"),
        read=read_luna16,
        page="""\
Lung nodules in 888 CTs of LIDC-IDRI (Setio et al., 2017): 1,186 nodules of at least 3 mm that three of four readers
accepted.
Get it: luna16.grand-challenge.org; Zenodo records 3723295 (subsets 0 to 6) and 4121926 (7 to 9).
`annotations_excluded.csv` is in `evaluationScript.zip`.
Licence: CC BY 4.0; the images are LIDC-IDRI's, CC BY 3.0.
Errata: excluded findings of unknown size have a diameter of -1, taken as 10 mm as in the official evaluation. Some
scans run to the right and front (negative direction in the .mhd header), which their world coordinates respect. The
release does not say which scans are of one patient.

```
RAW/annotations.csv               seriesuid,coordX,coordY,coordZ,diameter_mm   (LPS mm)
RAW/annotations_excluded.csv      the same columns
RAW/subset0/<seriesuid>.mhd, .raw
...
RAW/subset9
```

Fold k tests on subset k, validates on subset k + 1 and trains on the other eight.""",
    ),
)
