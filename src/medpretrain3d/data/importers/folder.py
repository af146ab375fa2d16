"""A folder of unlabelled volumes, at any depth."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset, channel_files, nifti_files


def read_folder(raw: Path) -> RawDataset | None:
    """Every .nii and .nii.gz below a folder as a case without labels; None where there is none.

    The id is the path below the folder, `a/b/scan.nii.gz` becomes `a__b__scan`; nnU-Net's `_0000` is dropped.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in nifti_files(raw, recursive=True):
        by_folder[path.parent].append(path)
    cases = [
        RawCase("__".join([*folder.relative_to(raw).parts, name]), images)
        for folder, files in by_folder.items()
        for name, images in channel_files(files).items()
    ]
    return RawDataset((), tuple(sorted(cases, key=lambda case: case.id))) if cases else None
