"""What decides the content of a store."""

from __future__ import annotations

from dataclasses import dataclass

from medpretrain3d.ingest.importers import ObjectRule
from medpretrain3d.ingest.patients import Patients
from medpretrain3d.store.unit import Unit


@dataclass(frozen=True)
class PrepareOptions:
    """Options that determine the content of a store."""

    spacing_mm: tuple[float, float, float] | None = None
    """Along (D, H, W); None keeps each scan's own."""
    objects: ObjectRule | None = None
    """None is what the data set says of itself."""
    min_voxels: int = 1
    fold: int = 0
    dataset: str | None = None
    """Name of the raw layout; None recognises it by its tree."""
    dataset_options: tuple[tuple[str, str], ...] = ()
    """Options of that layout, name and value."""
    unit: Unit | None = None
    """Of the intensities; None is `hu` where all channels are CT or nobody names them, else `any`."""
    patients: Patients | None = None
    """Which cases are of one patient; None is what the data set says."""
    straighten: bool = False
    """Whether the slices of a DICOM series from a tilted gantry are moved back; else the case is left out."""
    as_points: bool = False
    """Whether of each object the middle of its box is kept alone, as a point without a size; masks are not kept."""
