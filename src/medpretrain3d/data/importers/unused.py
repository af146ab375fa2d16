"""What lies in a raw folder and enters no case."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.data.importers.base import Leftover, RawDataset
from medpretrain3d.data.importers.tables import DOCUMENTS, ENDINGS, holds_places
from medpretrain3d.data.readers import volume_ending, walk
from medpretrain3d.data.readers.dicom import ENDINGS as DICOM_ENDINGS
from medpretrain3d.errors import UserError


def unused(raw: Path, dataset: RawDataset, is_named: bool = True) -> list[Leftover]:
    """Volumes, DICOM files and tables that were not read, and folders that could not be gone into.

    Args:
        raw: the folder.
        dataset: what was read of it.
        is_named: whether the user chose the layout.

    Raises:
        UserError: scans would be taken as unlabelled while a table beside them looks like their objects.
    """
    used = {path for case in dataset.cases for path in (*case.images, *([case.labels] if case.labels else []))}
    used_folders = {path.parent if path.suffix.lower() in DICOM_ENDINGS else path for path in used}
    passed: list[Leftover] = []

    def passed_over(path: Path, reason: str) -> None:
        if reason != "hidden folders" or any(volume_ending(inner) for inner in walk(path)):
            told = "hidden folders with volumes, which are not read" if reason == "hidden folders" else reason
            passed.append(Leftover(path.relative_to(raw).as_posix(), told))

    found: list[Leftover] = []
    for path in walk(raw, passed_over):
        name = path.relative_to(raw).as_posix()
        if path in used or path.parent in used_folders:
            continue
        if volume_ending(path):
            found.append(Leftover(name, f"volumes that the layout {dataset.layout} does not read"))
        elif path.suffix.lower() in DICOM_ENDINGS:
            found.append(Leftover(path.parent.relative_to(raw).as_posix(), "folders of DICOM files in no case"))
        elif path.suffix.lower() in DOCUMENTS and path not in dataset.tables and _is_near(path, raw, dataset):
            found.append(Leftover(name, f"tables and documents that the layout {dataset.layout} does not read"))
            if path.suffix.lower() in ENDINGS and dataset.layout == "folder" and not is_named and holds_places(path):
                raise UserError(
                    f"{path}: its columns look like objects, but no layout reads it: call them as "
                    "docs/datasets.md#boxes_csv has them, or say --dataset folder to take the scans as unlabelled"
                )
    return [*passed, *dict.fromkeys(found)]


def _is_near(path: Path, raw: Path, dataset: RawDataset) -> bool:
    """Whether a document lies where one of a data set would: directly in the folder, or in one without cases."""
    return path.parent == raw or dataset.layout == "folder"
