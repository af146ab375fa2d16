"""What an importer gives: where the files of each case are and what its labels mean. No voxel is read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

ObjectRule = Literal["components", "labels", "instances"]
"""How a label map becomes objects: each connected component is one, each label value is one, or each value is an
instance id whose class stands in a table."""
OBJECT_RULES: tuple[ObjectRule, ...] = get_args(ObjectRule)

NIFTI_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class RawCase:
    """One case of a raw data set."""

    id: str
    images: tuple[Path, ...]
    """One file per channel."""
    labels: Path | None = None
    class_of_value: Mapping[int, int] = field(default_factory=dict)
    """Class (from 0) of each value other than 0 that the label map may hold."""
    split: str = "train"
    problem: str = ""
    """Why the case cannot be used, when that shows before its voxels are read."""


@dataclass(frozen=True)
class RawDataset:
    """A raw data set as an importer sees it."""

    classes: tuple[str, ...]
    cases: tuple[RawCase, ...]
    objects: ObjectRule = "components"
    channel_names: tuple[str, ...] = ()
    """Empty where nobody says."""


def nifti_files(folder: Path, recursive: bool = False) -> list[Path]:
    """The NIfTI files of a folder in order, without the hidden twins that macOS leaves in archives."""
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(
        path for path in found if path.name.endswith(NIFTI_ENDINGS) and path.name[0] != "." and path.is_file()
    )


def stem(path: Path) -> str:
    """A NIfTI file's name without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def channel_files(files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Files of one folder by case: `<id>_0000`, `<id>_0001`, ... are channels, any other file is a case of its own."""
    by_stem = {stem(path): path for path in files}
    cases: dict[str, list[Path]] = defaultdict(list)
    for name, path in sorted(by_stem.items()):
        channel = re.fullmatch(r"(.+)_\d{4}", name)
        # A year at the end of a name is no channel: channels are counted from 0000 on.
        cases[channel[1] if channel and f"{channel[1]}_0000" in by_stem else name].append(path)
    return {case_id: tuple(paths) for case_id, paths in cases.items()}
