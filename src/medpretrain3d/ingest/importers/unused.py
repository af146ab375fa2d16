"""Unused files: the content of a raw folder that enters no case."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import Leftover, RawDataset
from medpretrain3d.ingest.importers.tables import DOCUMENTS, holds_objects, is_description
from medpretrain3d.store.readers import volume_ending, walk
from medpretrain3d.store.readers.dicom_series import ENDINGS as DICOM_ENDINGS


def unused(raw: Path, dataset: RawDataset, is_named: bool = True) -> list[Leftover]:
    """Return volumes, DICOM files and tables that were not read, and folders that could not be gone into.

    Args:
        raw: the folder.
        dataset: what was read of it.
        is_named: whether the user chose the layout.

    Raises:
        UserError: scans would be taken as unlabelled, or their objects as of one class, while a table or document
            beside them looks like their objects or names their classes.
    """
    used = {path for case in dataset.cases for path in (*case.images, *case.label_files)}
    used_folders = {path.parent if path.suffix.lower() in DICOM_ENDINGS else path for path in used}
    passed: list[Leftover] = []

    def passed_over(path: Path, reason: str) -> None:
        if reason != "hidden folders" or any(volume_ending(inner) for inner in walk(path)):
            message = "hidden folders with volumes, which are not read" if reason == "hidden folders" else reason
            passed.append(Leftover(path.relative_to(raw).as_posix(), message))

    found: list[Leftover] = []
    is_guess = not is_named and dataset.layout in ("folder", "pairs")
    has_maps = any(case.labels for case in dataset.cases)
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
            if (
                is_guess
                and (path.parent == raw or not is_description(path))
                and (what := holds_objects(path, has_maps))
            ):
                raise UserError(
                    f"{path}: {what}, but no layout reads it where it is: see docs/datasets.md#your-own-data for those "
                    f"that do, or say --dataset {dataset.layout} to do without it"
                )
        elif path.is_symlink() and not path.exists():
            found.append(Leftover(name, "links that lead nowhere"))
    return [*passed, *dict.fromkeys(found)]


def _is_near(path: Path, raw: Path, dataset: RawDataset) -> bool:
    """Return whether a document lies where one of a data set would: directly in the folder, or in one without cases; a
    description anywhere below a folder that was read by names alone."""
    return path.parent == raw or dataset.layout == "folder" or (dataset.layout == "pairs" and is_description(path))
