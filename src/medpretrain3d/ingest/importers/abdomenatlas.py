"""AbdomenAtlas: abdominal CTs of many hospitals, a corpus (Qu et al., 2023; Li et al., 2024)."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.files import find_files
from medpretrain3d.ingest.importers.layout import Layout, Misplaced


def read_abdomenatlas(raw: Path) -> RawDataset:
    """Return the scan of every folder BDMAP_<N>; the organ masks in `segmentations` are not read.

    Raises:
        Misplaced: no such folder.
    """
    images = {path.parent: path for path in find_files(raw, "BDMAP_*/ct.nii.gz")}
    if not images:
        raise Misplaced("no folder BDMAP_00000001 with ct.nii.gz")
    beside = {path.parent.parent for path in find_files(raw, "BDMAP_*/segmentations/*")}
    cases = [
        RawCase(folder.name, (images[folder],))
        if folder in images
        else RawCase(folder.name, (), problem=f"{folder.name} has no ct.nii.gz")
        for folder in sorted({*images, *beside})
    ]
    return RawDataset((), tuple(cases), channel_names=("CT",))


LAYOUTS = (
    Layout(
        name="abdomenatlas",
        kind="corpus",
        classes=(),
        licence="CC BY-NC-SA 4.0",
        wanted="  RAW/**/BDMAP_00000001/ct.nii.gz   (segmentations/ beside it is not read)",
        patterns=("**/BDMAP_*/ct.nii.gz",),
        read=read_abdomenatlas,
        page="""\
Abdominal CTs of many hospitals (Qu et al., 2023; Li et al., 2024); 5,195 public ones in AbdomenAtlas1.0Mini.
Get it: the data set AbdomenAtlas/AbdomenAtlas1.0Mini.
Licence: CC BY-NC-SA 4.0.
Errata: gathered from public sets, MSD, LiTS, KiTS, BTCV, FLARE and TotalSegmentator among them: an encoder pretrained
on it has seen their test scans.

```
RAW/BDMAP_00000001/ct.nii.gz
RAW/BDMAP_00000001/segmentations/*.nii.gz     not read
```""",
    ),
)
