"""Output of an importer: where the files of each case are and what its annotations mean. No voxel is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from medpretrain3d.ingest.importers.annotations import ObjectAnnotation
from medpretrain3d.store.volume import Volume

ObjectRule = Literal["components", "labels", "instances"]
"""How a label map becomes objects: each connected component is one, each label value is one, or each value is an
instance id whose class stands in a table."""
OBJECT_RULES: tuple[ObjectRule, ...] = get_args(ObjectRule)

ANATOMY, IGNORE = -1, -2
"""In place of a class: a value that is no object, as the liver around its tumours; and one that marks regions in which
finding something is ignored."""


@dataclass(frozen=True)
class RawCase:
    """One case of a raw data set. A case may have a label map, marks, both, or neither, which makes it a negative."""

    id: str
    images: tuple[Path, ...]
    """One file per channel; a DICOM series is its folder."""
    labels: Path | None = None
    class_of_value: Mapping[int, int] | None = field(default_factory=dict)
    """Class (from 0), `ANATOMY` or `IGNORE` for each value other than 0 that the label map may hold; None where every
    value is an object of class 0, whatever the rule."""
    more_labels: tuple[tuple[Path, Mapping[int, int]], ...] = ()
    """Further files of DICOM annotations of the same scan, each with the classes of its own regions."""
    annotations: tuple[ObjectAnnotation, ...] = ()
    """Objects that are given as boxes or spheres."""
    ignore: tuple[ObjectAnnotation, ...] = ()
    """Regions in which finding something is ignored."""
    patient: str | None = None
    """Pseudonym under which several cases belong together; None where each case is a patient of its own."""
    split: str = "train"
    problem: str = ""
    """Why the case cannot be used, when that shows before its voxels are read."""
    reader: Callable[[Path], Volume] | None = None
    """Reads a file of a format that is this data set's own; a function of a module, so that workers can import it. The
    case is prepared anew when that file changes, not when what lies beside it does."""

    @property
    def label_files(self) -> tuple[Path, ...]:
        """All files of labels."""
        return () if self.labels is None else (self.labels, *(path for path, _ in self.more_labels))


@dataclass(frozen=True)
class Leftover:
    """Something of a raw data set that enters no case, such as a row of a table or a file; or enters one, but not as it
    is written."""

    what: str
    """Id, name or path below the folder."""
    reason: str
    """By which leftovers are counted, in the plural: `rows of annotations.csv that meet no scan`."""
    is_used: bool = False


@dataclass(frozen=True)
class RawDataset:
    """A raw data set as an importer sees it."""

    classes: tuple[str, ...]
    cases: tuple[RawCase, ...]
    objects: ObjectRule = "components"
    channel_names: tuple[str, ...] = ()
    """Empty where nobody says."""
    folds: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    """Official folds, each with the ids of its `train`, `val` and perhaps `test` cases."""
    tables: tuple[Path, ...] = ()
    """Files that were read beside those of the cases."""
    leftovers: tuple[Leftover, ...] = ()
    layout: str = ""
    """Name of the layout that was read."""
    recognised_by: str = ""
    """Why it was read as that; empty where the names that fit say it."""
