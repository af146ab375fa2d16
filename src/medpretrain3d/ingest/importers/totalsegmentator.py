"""TotalSegmentator: 1,228 CTs of all body regions, used as a corpus (Wasserthal et al., 2023).

The organ masks, one file per organ, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import read_csv
from medpretrain3d.ingest.importers.ids import ScanIds
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.readers import find_volumes, volume_stem


def read_totalsegmentator(raw: Path) -> RawDataset:
    """Read the layout, or the example files of the program: `<name>.nii.gz` beside `<name>_seg<N>.nii.gz`.

    Raises:
        Misplaced: neither is there.
        UserError: a damaged meta.csv.
    """
    folders = sorted(folder for folder in raw.glob("s[0-9]*") if (folder / "ct.nii.gz").is_file() or _is_case(folder))
    table = raw / "meta.csv"
    split_of, leftovers = _splits(table, folders) if table.is_file() and folders else ({}, [])
    cases = [
        RawCase(folder.name, (folder / "ct.nii.gz",), split=split_of.get(folder.name, "train"))
        if (folder / "ct.nii.gz").exists()
        else RawCase(folder.name, (), problem=f"{folder.name} has no ct.nii.gz")
        for folder in folders
    ]
    if not cases:
        files = {volume_stem(path): path for path in find_volumes(raw)}
        masked = sorted({re.sub(r"_seg\d+$", "", name) for name in files if re.search(r"_seg\d+$", name)} & set(files))
        cases = [RawCase(name, (files[name],)) for name in masked]
    if not any(case.images for case in cases):
        raise Misplaced("no folder s0000 with ct.nii.gz")
    tables = (table,) if table.is_file() else ()
    return RawDataset((), tuple(cases), channel_names=("CT",), tables=tables, leftovers=tuple(leftovers))


def _is_case(folder: Path) -> bool:
    return (folder / "segmentations").is_dir()


def _splits(table: Path, folders: Sequence[Path]) -> tuple[dict[str, str], list[Leftover]]:
    rows = read_csv(table, ["image_id"])
    scan_of, unmet = ScanIds(folder.name for folder in folders).meet(table, [row["image_id"] for row in rows])
    return {scan_of[row["image_id"]]: row.get("split") or "train" for row in rows if row["image_id"] in scan_of}, unmet


LAYOUTS = (
    Layout(
        name="totalsegmentator",
        kind="corpus",
        classes=(),
        licence="CC BY 4.0",
        wanted="""  RAW/s0000/ct.nii.gz            (segmentations/ beside it is not read)
  RAW/meta.csv                   (split; may be missing)""",
        patterns=("s[0-9][0-9][0-9][0-9]/ct.nii.gz", "s[0-9]*/segmentations/"),
        read=read_totalsegmentator,
        page="""\
1,228 CTs of all body regions (Wasserthal et al., 2023). The masks of organs, one file each, are not read.
Get it: Zenodo record 10047292 (version 2).
Licence: CC BY 4.0.
Errata: scans are resampled to 1.5 mm.

```
RAW/s0000/ct.nii.gz
RAW/meta.csv              image_id;...;split
```""",
    ),
    Layout(
        name="totalsegmentator_examples",
        kind="corpus",
        classes=(),
        licence="Apache-2.0",
        wanted="  RAW/<name>.nii.gz beside RAW/<name>_seg<N>.nii.gz",
        patterns=("example_ct*.nii.gz", "example_ct*_seg[0-9]*.nii.gz"),
        read=read_totalsegmentator,
        page="""\
The example scans of the program of the same name: `<name>.nii.gz` beside `<name>_seg<N>.nii.gz`, which is not read.
Get it: the program's repository, wasserth/TotalSegmentator.
Licence: Apache-2.0.
Errata: the label maps are the program's output, no annotation.""",
    ),
)
