"""AbdomenAtlas: abdominal CTs of many hospitals, a corpus (Qu et al., 2023; Li et al., 2024)."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset
from medpretrain3d.data.importers.layout import Layout, Misplaced


def read_abdomenatlas(raw: Path) -> RawDataset:
    """The scan of every folder BDMAP_<N>; the organ masks in `segmentations` are not read.

    Raises:
        Misplaced: no such folder.
    """
    images = sorted(raw.rglob("BDMAP_*/ct.nii.gz"))
    if not images:
        raise Misplaced("no folder BDMAP_00000001 with ct.nii.gz")
    return RawDataset((), tuple(RawCase(path.parent.name, (path,)) for path in images), channel_names=("CT",))


LAYOUTS = (
    Layout(
        name="abdomenatlas",
        kind="corpus",
        classes=(),
        licence="CC BY-NC-SA 4.0",
        wanted="  RAW/**/BDMAP_00000001/ct.nii.gz   (segmentations/ beside it is not read)",
        signs=("**/BDMAP_*/ct.nii.gz",),
        read=read_abdomenatlas,
    ),
)
