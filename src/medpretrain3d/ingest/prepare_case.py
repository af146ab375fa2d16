"""One case from raw files to the store: read, check, resample, find objects, write; or a note why that cannot be done.

What is on disk is the only record of what was done, so a call can be killed at any moment, and several calls can work
on one store.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.annotation import annotate, marks_in_pixels, marks_sha256
from medpretrain3d.ingest.importers import ObjectRule, RawCase
from medpretrain3d.ingest.plausibility import check_plausible
from medpretrain3d.ingest.prepare_report import REMARKS
from medpretrain3d.store.case import (
    VERSION,
    Case,
    CaseData,
    index_row,
    voxels_sha256,
    write_case,
)
from medpretrain3d.store.case_data import sidecar_bytes
from medpretrain3d.store.damage import check_contents, check_sizes
from medpretrain3d.store.layout import FolderLayout, Layout
from medpretrain3d.store.readers import MissingLibrary, source_files
from medpretrain3d.store.skipped_cases import (
    RETRIED,
    InvalidCaseError,
    is_of_the_machine,
    read_skip_record,
    skip_record_path,
    write_skip_record,
)
from medpretrain3d.store.statistics import MEASURED
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import read_channels, resample


@dataclass(frozen=True)
class Job:
    """A case to prepare, and what decides its content beside its files."""

    case: RawCase
    store: Path
    rule: ObjectRule
    spacing_mm: tuple[float, float, float] | None
    min_voxels: int
    unit: Unit
    num_channels: int
    straighten: bool = False
    """Whether the slices of a tilted gantry are moved back."""
    as_points: bool = False
    """Whether of each object the middle alone is kept."""
    layout: Layout | None = None
    """How cases lie in the store; a folder each when absent."""
    is_kept: bool = False
    """Whether the case is there, and nothing but its patient is another now."""

    @property
    def cases(self) -> Layout:
        """The cases of the store."""
        return self.layout or FolderLayout(self.store)


@dataclass(frozen=True)
class PrepareResult:
    """A case as it is in the store: its row for the index, or the note that says why it has none."""

    row: Mapping[str, Any] | None = None
    note: Mapping[str, Any] | None = None
    seconds: float = field(default=0.0, compare=False)
    """That it took in this call."""


@dataclass(frozen=True)
class Redo:
    """Work to do, and why, where there was a result before."""

    reason: str = ""
    is_kept: bool = False
    """Whether the case stays but for its patient."""


def find_existing(job: Job) -> PrepareResult | None:
    """Return the outcome of an earlier call on the same files and options; None where there is work to do.

    A note on a case that is tried again is an outcome, too: its own shard is who tries.
    """
    found = earlier(job)
    if isinstance(found, PrepareResult):
        return found
    note = read_skip_record(job.store, job.case.id)
    return PrepareResult(note=note) if note is not None and RETRIED in note else None


def earlier(job: Job, is_thorough: bool = False) -> PrepareResult | Redo:
    """Return the outcome of an earlier call on the same files and options, or why that has to be made again.

    Args:
        job: the case.
        is_thorough: whether every byte is read, to be compared with its checksum, or only sizes are looked at.
    """
    try:
        facts = _facts(job)
    except UserError:
        return Redo()
    note = read_skip_record(job.store, job.case.id)
    if note is not None and RETRIED in note:
        was_read = "prepared_from" in note
        return Redo("memory, rights or a decoder were wanting" if was_read else "its raw files changed")
    if note is not None:
        return Redo(changed) if (changed := _changed(note, facts)) else PrepareResult(note=note)
    files = job.cases.find(job.case.id)
    if files is None:
        return Redo()
    try:
        case = Case.open(files)
        changed = _changed(case.sidecar, facts)
        is_kept = bool(changed) and not _changed(case.sidecar, _with_patient(facts, job.case, case.sidecar["patient"]))
        if changed and not is_kept:
            return Redo(changed)
        (check_contents if is_thorough else check_sizes)(case)
        if is_kept:
            return Redo(is_kept=True)
        return PrepareResult(index_row(case.sidecar, files))
    except (UserError, KeyError, TypeError) as error:
        return Redo(f"was damaged: {error}")


def fault_of(job: Job) -> str:
    """Return why a case cannot be used, empty where it can; reads it and writes nothing."""
    try:
        _case_data(job, _facts(job))
    except (UserError, MemoryError) as error:
        return str(error) or "does not fit into memory"
    return ""


def prepare_case(job: Job) -> PrepareResult:
    """Write a case, or a note in its place.

    Raises:
        UserError: the disk is full, or a library is missing; neither is the fault of the case.
    """
    began = time.monotonic()
    result = _prepare_case(job)
    return replace(result, seconds=time.monotonic() - began)


def _prepare_case(job: Job) -> PrepareResult:
    if job.is_kept:
        return _of_new_patient(job)
    facts: dict[str, Any] = {}
    try:
        facts = _facts(job)
        case_data = _case_data(job, facts)
    except MissingLibrary:
        raise
    except (UserError, MemoryError) as error:
        return _left_out(job, error, facts)
    try:
        row = write_case(job.cases, case_data)
    except MemoryError as error:  # a disk that refuses is no fault of this case
        return _left_out(job, error, facts)
    skip_record_path(job.store, job.case.id).unlink(missing_ok=True)
    return PrepareResult(row)


def _of_new_patient(job: Job) -> PrepareResult:
    """Write who the patient of a case is that stays as it is."""
    files = job.cases.find(job.case.id)
    if files is None:
        raise UserError(f"case {job.case.id}: is gone from {job.store}; prepare it again")
    sidecar = Case.open(files).sidecar
    sidecar |= {"patient": job.case.patient, "options": _facts(job)["options"]}
    return PrepareResult(index_row(sidecar, job.cases.write_sidecar(files, sidecar_bytes(sidecar))))


def _left_out(job: Job, error: UserError | MemoryError, facts: Mapping[str, Any]) -> PrepareResult:
    """Write the note on a case that could not be used, and take away what an earlier call made of it."""
    case = job.case
    reason = error if isinstance(error, UserError) else InvalidCaseError("does not fit into memory", "size")
    file = case.images[0].name if case.images else ""
    is_retried = is_of_the_machine(error) or not _may_read_all(case)
    note = write_skip_record(job.store, case.id, file, reason, facts, is_retried)
    job.cases.remove(case.id)
    return PrepareResult(note=note)


def _may_read_all(case: RawCase) -> bool:
    """Return whether each file is there and may be read by this user; DICOM that may not looks as if it were none."""
    try:
        files = [file for path in (*case.images, *case.label_files) for file in source_files(path)]
    except UserError:
        return False
    return all(os.access(file, os.R_OK) for file in files)


def _case_data(job: Job, facts: dict[str, Any]) -> CaseData:
    case = job.case
    if case.problem:
        raise InvalidCaseError(case.problem, "layout")
    image = (
        case.reader(case.images[0]) if case.reader else read_channels(case.images, job.unit, straighten=job.straighten)
    )
    if len(image.array) != job.num_channels:
        raise InvalidCaseError(f"has {len(image.array)} channels, wanted {job.num_channels}", "channels")
    check_plausible(case.images[0], image, job.unit)
    voxels, statistics, pad_values = voxels_sha256(image.array), image.statistics, image.pad_values
    annotation = annotate(case, job.rule, job.min_voxels, image, job.spacing_mm, job.straighten)
    if job.as_points:
        annotation = annotation.as_points()
    if job.spacing_mm:
        image = resample(image, job.spacing_mm)
    return CaseData(
        case.id,
        image.array,
        image.grid,
        image.source_grid,
        case.images[0].name,
        annotation.objects,
        annotation.mask,
        annotation.ignore_boxes,
        case.patient,
        rescale=image.rescale,
        voxels=voxels,
        statistics=statistics,
        pad_values=pad_values,
        partly_hidden=annotation.partly_hidden,
        facts={**facts, "num_too_small": annotation.num_too_small, REMARKS: dict(annotation.remarks)},
    )


def _changed(record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return why a record is out of date; empty where it is not."""
    different = [name for name, value in facts.items() if record.get(name) != value]
    message = {"prepared_from": "its raw files changed", "options": "annotations or options changed"}
    return next((message.get(name, "an older version made it") for name in different), "")


def _facts(job: Job) -> dict[str, Any]:
    """Return the cache key of a case, as plain data: its files by size and time of change, and the options."""
    paths = [*job.case.images, *job.case.label_files]
    files = [(file.name, file.stat()) for path in paths for file in source_files(path)]
    # A hash, for a DICOM series has hundreds of files, and their names may be a patient's.
    listed = json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in files])
    class_of_value, more = job.case.class_of_value, job.case.more_labels
    return {
        "version": VERSION,
        "prepared_from": hashlib.sha256(listed.encode()).hexdigest(),
        "measured": [*MEASURED, "objects"],
        "options": {
            "spacing_mm": list(job.spacing_mm) if job.spacing_mm else None,
            "objects": job.rule,
            "min_voxels": job.min_voxels,
            "unit": job.unit,
            "num_channels": job.num_channels,
            "problem": job.case.problem,
            **({"straighten": True} if job.straighten else {}),
            # Versions that left marks where the slices had been wrote no such key.
            **({"moved_marks": True} if job.straighten and marks_in_pixels(job.case) else {}),
            **({"as_points": True} if job.as_points else {}),
            "marks": marks_sha256(job.case),
            "class_of_value": class_of_value and _as_json(class_of_value),
            **({"more_labels": [_as_json(classes) for _, classes in more]} if more else {}),
        },
    }


def _with_patient(facts: Mapping[str, Any], case: RawCase, patient: str | None) -> dict[str, Any]:
    """Return the cache key of a case as it would be if the case were of another patient."""
    marks = marks_sha256(replace(case, patient=patient))
    return {**facts, "options": {**facts["options"], "marks": marks}}


def _as_json(class_of_value: Mapping[int, int]) -> dict[str, int]:
    return {str(value): label for value, label in sorted(class_of_value.items())}
