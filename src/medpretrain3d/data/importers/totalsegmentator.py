"""TotalSegmentator: 1,228 CTs of all body regions, used as a corpus (Wasserthal et al., 2023).

The organ masks, one file per organ, are not read.
"""

from __future__ import annotations

import re
from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.layout import Layout, Misplaced
from medpretrain3d.data.readers import find_volumes, volume_stem


def read_totalsegmentator(raw: Path) -> RawDataset:
    """Read the layout, or the example files of the program: `<name>.nii.gz` beside `<name>_seg<N>.nii.gz`.

    Raises:
        Misplaced: neither is there.
        UserError: a damaged meta.csv.
    """
    table = raw / "meta.csv"
    # The table's columns are separated by semicolons; only the split is taken from it.
    split_of = dict(_splits(table)) if table.is_file() else {}
    cases = [
        RawCase(folder.name, (folder / "ct.nii.gz",), split=split_of.get(folder.name, "train"))
        for folder in sorted(raw.glob("s[0-9]*"))
        if (folder / "ct.nii.gz").is_file()
    ]
    if not cases:
        files = {volume_stem(path): path for path in find_volumes(raw)}
        masked = sorted({re.sub(r"_seg\d+$", "", name) for name in files if re.search(r"_seg\d+$", name)} & set(files))
        cases = [RawCase(name, (files[name],)) for name in masked]
    if not cases:
        raise Misplaced("no folder s0000 with ct.nii.gz")
    return RawDataset((), tuple(cases), channel_names=("CT",))


def _splits(table: Path) -> list[tuple[str, str]]:
    lines = [line.split(";") for line in table.read_text(encoding="utf-8-sig").splitlines() if line]
    columns = [lines[0].index(name) for name in ("image_id", "split") if name in lines[0]] if lines else []
    return [(line[columns[0]], line[columns[1]]) for line in lines[1:]] if len(columns) == 2 else []


LAYOUTS = (
    Layout(
        name="totalsegmentator",
        kind="corpus",
        classes=(),
        licence="CC BY 4.0",
        wanted="""  RAW/s0000/ct.nii.gz            (segmentations/ beside it is not read)
  RAW/meta.csv                   (split; may be missing)""",
        signs=("s[0-9]*/ct.nii.gz",),
        read=read_totalsegmentator,
    ),
    Layout(
        name="totalsegmentator_examples",
        kind="corpus",
        classes=(),
        licence="Apache-2.0",
        wanted="  RAW/<name>.nii.gz beside RAW/<name>_seg<N>.nii.gz",
        signs=("*_seg[0-9]*.nii.gz",),
        read=read_totalsegmentator,
    ),
)
