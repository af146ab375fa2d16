"""A folder of unlabelled volumes, at any depth."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import RawCase, RawDataset


def read_folder(raw: Path) -> RawDataset | None:
    """Every .nii and .nii.gz below a folder as a case without labels; None where there is none."""
    files = sorted(path for path in raw.rglob("*") if path.name.endswith((".nii", ".nii.gz")) and path.is_file())
    if not files:
        return None
    return RawDataset((), tuple(RawCase(_case_id(path.relative_to(raw)), path) for path in files))


def _case_id(path: Path) -> str:
    name = path.as_posix().removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")
    return name.replace("/", "__")
