"""A file of annotations in DICOM, and which of several of one series count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.segmentation_object import segments_of
from medpretrain3d.ingest.structure_set import NO_OBJECTS, References, references_of, rois_of
from medpretrain3d.store.readers.dicom_header import SEGMENTATIONS, damage_named, read_header, sop_class
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NEWEST = "newest"
_LABELS = ("StructureSetLabel", "StructureSetName", "ContentLabel", "SeriesDescription")
_DATES = (("StructureSetDate", "StructureSetTime"), ("ContentDate", "ContentTime"))


@dataclass(frozen=True)
class AnnotationFile:
    """A file of annotations: its regions by number, and what it was drawn on. Its texts stay in memory."""

    file: Path
    regions: Mapping[int, str]
    """Names of the regions that were drawn."""
    references: References
    num_undrawn: int = 0
    """Regions that were named and not drawn."""
    num_others: int = 0
    """Regions that are no findings or organs, such as the skin."""
    problem: str = ""
    labels: tuple[str, ...] = field(default=(), repr=False)
    """What it calls itself."""
    written: str = field(default="", repr=False)
    """Date and time as digits; empty where it does not say."""
    num_older: int = 0
    """Regions that a newer file of the series draws again, left out."""

    def fits(self, raw: Path, wanted: str) -> bool:
        """Return whether its path below the folder or one of its labels is meant, where `*` stands for any text."""
        names = (self.file.relative_to(raw).as_posix(), *self.labels)
        return any(fnmatchcase(name.casefold(), wanted.casefold()) for name in names)


def read_annotation_file(path: Path) -> AnnotationFile:
    """Read what a structure set or a segmentation holds, or why it cannot be read."""
    try:
        header = read_header(path)
        with damage_named(path):
            return _read(path, header)
    except InvalidCaseError as error:
        return AnnotationFile(path, {}, References(frozenset(), frozenset()), problem=str(error))


def _read(path: Path, header: Dataset) -> AnnotationFile:
    labels = tuple(text for name in _LABELS if (text := " ".join(str(header.get(name) or "").split())))
    written = next((f"{header.get(day)}{header.get(hour) or ''}" for day, hour in _DATES if header.get(day)), "")
    if sop_class(path) in SEGMENTATIONS:
        drawn, num_undrawn, num_others = {one.number: one.name for one in segments_of(header)}, 0, 0
    else:
        rois = rois_of(header)
        objects = [one for one in rois if one.kind not in NO_OBJECTS]
        drawn = {one.number: one.name for one in objects if one.num_contours}
        num_undrawn, num_others = len(objects) - len(drawn), len(rois) - len(objects)
    return AnnotationFile(path, drawn, references_of(header), num_undrawn, num_others, "", labels, written)


def chosen(raw: Path, files: Sequence[AnnotationFile], wanted: str) -> list[AnnotationFile]:
    """Return the files that an option means; `newest` and no text mean all.

    Raises:
        UserError: it means none.
    """
    fitting = [one for one in files if wanted in ("", NEWEST) or one.fits(raw, wanted)]
    if not fitting:
        raise UserError(
            f"{raw}: none of its {len(files)} files of annotations is called {wanted!r}; wanted a path below the "
            f"folder or a label, with * for any text, or {NEWEST}"
        )
    return fitting


def drawn_twice(files: Sequence[AnnotationFile], is_wanted: Callable[[str], bool]) -> dict[str, list[AnnotationFile]]:
    """Return the names of wanted regions that several files have, in any case, with these files."""
    having: dict[str, list[AnnotationFile]] = defaultdict(list)
    for one in files:
        for name in sorted({region.casefold() for region in one.regions.values() if is_wanted(region)}):
            having[name].append(one)
    return {name: those for name, those in having.items() if len(those) > 1}


def without_older(files: Sequence[AnnotationFile], is_wanted: Callable[[str], bool]) -> list[AnnotationFile]:
    """Return the files without regions that a newer one draws again; what was written at one time stays."""
    older: dict[Path, set[str]] = defaultdict(set)
    for name, those in drawn_twice(files, is_wanted).items():
        latest = max(one.written for one in those)
        for one in those:
            if one.written and one.written < latest:
                older[one.file].add(name)
    left = []
    for one in files:
        kept = {number: name for number, name in one.regions.items() if name.casefold() not in older[one.file]}
        left.append(replace(one, regions=kept, num_older=len(one.regions) - len(kept)))
    return left
