"""Organ masks of a segmenter, in the layout of TotalSegmentator's results: which files are those of a case."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import find_volumes, volume_stem


def organ_files(folder: Path, case_id: str) -> list[Path]:
    """Return the masks of a case: `<case>/segmentations/*`, `<case>/*`, or one label map `<case>.nii.gz` (`--ml`).

    Raises:
        UserError: there is none, or several label maps.
    """
    for place in (folder / case_id / "segmentations", folder / case_id):
        if place.is_dir() and (found := sorted(find_volumes(place))):
            return found
    # Names are compared whole: an id may hold dots and what a glob reads as a pattern.
    whole = [path for path in find_volumes(folder) if volume_stem(path) == case_id]
    if len(whole) > 1:
        raise UserError(
            f"case {case_id}: several label maps in {folder}: {', '.join(path.name for path in whole)}; keep one"
        )
    if not whole:
        raise UserError(
            f"case {case_id}: no masks in {folder}; wanted {case_id}/segmentations/<organ>.nii.gz, "
            f"{case_id}/<organ>.nii.gz or one label map {case_id}.nii.gz"
        )
    return whole
