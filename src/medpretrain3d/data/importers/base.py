"""What an importer gives: where the files of each case are and what its labels mean. No voxel is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ObjectRule = Literal["components", "labels", "instances"]
"""How a label map becomes objects: each connected component is one, each label value is one, or each value is an
instance id whose class stands in a table."""


@dataclass(frozen=True)
class RawCase:
    """One case of a raw data set."""

    id: str
    image: Path
    labels: Path | None = None
    class_of_value: Mapping[int, int] = field(default_factory=dict)
    """Class (from 0) of each value other than 0 that the label map may hold."""
    split: str = "train"


@dataclass(frozen=True)
class RawDataset:
    """A raw data set as an importer sees it."""

    classes: tuple[str, ...]
    cases: tuple[RawCase, ...]
    objects: ObjectRule = "components"
