"""One case of a store: voxels read crop by crop, and a sidecar that says where they lie and what is in them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.store.arrays import array_shape, read_crop
from medpretrain3d.store.case_data import AIR_HU, CaseData
from medpretrain3d.store.case_files import CASES, IMAGE, MASK, SIDECAR, CaseFiles, case_folder
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.hidden_objects import PARTLY_HIDDEN
from medpretrain3d.store.layout import write_case
from medpretrain3d.store.pseudo_objects import PSEUDO_OBJECTS
from medpretrain3d.store.sidecar import VERSION, Instance, content_sha256, index_row, read_sidecar, voxels_sha256
from medpretrain3d.store.statistics import ChannelStatistics
from medpretrain3d.store.unit import Unit

__all__ = [
    "AIR_HU",
    "CASES",
    "IMAGE",
    "MASK",
    "SIDECAR",
    "VERSION",
    "Case",
    "CaseData",
    "Instance",
    "case_folder",
    "index_row",
    "voxels_sha256",
    "write_case",
]


class Case:
    """A case of a store. Opening it reads the sidecar; voxels stay on disk until asked for.

    Args:
        files: where they lie.
        sidecar: what `case.json` says.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel
        >>> import numpy as np
        >>> from medpretrain3d.ingest.prepare import prepare
        >>> from medpretrain3d.store import Store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scan = np.random.default_rng(0).integers(-200, 200, (16, 16, 16), dtype=np.int16)
        ...     nibabel.save(nibabel.Nifti1Image(scan, np.diag([2.0, 2, 2, 1])), Path(folder) / "scan.nii.gz")
        ...     _ = prepare(Path(folder), Path(folder) / "store")
        ...     case = Store(Path(folder) / "store").case("scan")
        ...     crop = case.read_image(start=(0, 0, 0), size=(8, 8, 8))
        >>> crop.shape, case.grid.spacing_mm
        ((1, 8, 8, 8), (2.0, 2.0, 2.0))
    """

    def __init__(self, files: CaseFiles, sidecar: dict[str, Any]) -> None:
        self.files = files
        self.folder = files.folder
        self.sidecar = sidecar
        self.id: str = sidecar["id"]
        self.source_file: str = sidecar["source_file"]
        self.num_channels: int = sidecar["num_channels"]
        self.has_mask: bool = sidecar["has_mask"]
        self.pad_values: tuple[int, ...] = tuple(sidecar["pad_values"])
        """What surrounds the volume in each channel: -1024 for HU, else the lowest value before it was resampled."""
        self.rescale: tuple[tuple[float, float], ...] = tuple((slope, start) for slope, start in sidecar["rescale"])
        """Slope and intercept per channel that lead back to the file's values; empty for HU."""

    @staticmethod
    def open(files: CaseFiles | Path) -> Case:
        """Read the sidecar of a case, whose files lie in a folder of their own or elsewhere.

        Raises:
            UserError: it is missing or its sidecar is damaged.
        """
        files = CaseFiles.of_folder(files) if isinstance(files, Path) else files
        return Case(files, read_sidecar(files))

    @functools.cached_property
    def grid(self) -> Grid:
        """Grid of the stored voxels."""
        return Grid.from_json(self.sidecar["grid"])

    @functools.cached_property
    def source_grid(self) -> Grid:
        """Grid of the file the case came from: `grid.map_boxes(boxes, source_grid)` gives voxels of that file."""
        return Grid.from_json(self.sidecar["source_grid"])

    @property
    def unit(self) -> Unit:
        """Intensity unit of the values."""
        return "any" if self.rescale else "hu"

    @functools.cached_property
    def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Intensity statistics of each channel of the whole volume before it was resampled, in stored units.

        `normalization.fitted_to(case)(crop)` is what a network sees.
        """
        return tuple(ChannelStatistics.from_json(one) for one in self.sidecar["statistics"])

    @functools.cached_property
    def boxes(self) -> np.ndarray:
        """(N, 6) float32 in voxels of `grid`."""
        boxes = [instance["box_vox"] for instance in self.sidecar["instances"]]
        return np.array(boxes, dtype=np.float32).reshape(-1, 6)

    @functools.cached_property
    def ignore_boxes(self) -> np.ndarray:
        """(M, 6) float32 in voxels of `grid`: regions in which finding something is ignored."""
        return np.array(self.sidecar["ignore_boxes_vox"], dtype=np.float32).reshape(-1, 6)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 class indices from 0."""
        return np.array([instance["label"] for instance in self.sidecar["instances"]], dtype=np.int64)

    @functools.cached_property
    def instance_ids(self) -> np.ndarray:
        """(N,) int64: value of each object in the mask; 0 for one that is too small to have a voxel there."""
        return np.array([instance["id"] for instance in self.sidecar["instances"]], dtype=np.int64)

    @functools.cached_property
    def outline_ids(self) -> np.ndarray:
        """(N,) int64: `instance_ids` of the objects whose voxels say where a part of them ends; 0 for others.

        In one mask the smaller of two objects that overlap is seen, and what is left of the larger may be shorter.
        """
        return np.where(np.isin(self.instance_ids, self.partly_hidden), 0, self.instance_ids)

    @property
    def partly_hidden(self) -> list[int]:
        """Ids of objects whose ends the mask does not show, since others hide them."""
        older = self.sidecar.get(PSEUDO_OBJECTS, {})  # where it stood before labels had it too
        return list(self.sidecar.get(PARTLY_HIDDEN) or older.get(PARTLY_HIDDEN, []))

    @functools.cached_property
    def object_voxels(self) -> list[int | None]:
        """Voxels of each object in the file it was found in; None where that is not known."""
        return list(self.sidecar.get("object_voxels") or [None] * len(self.sidecar["instances"]))

    @functools.cached_property
    def label_of_instance(self) -> np.ndarray:
        """(max id + 1,) int64: 0 for background and unused ids, `label + 1` for the id of an object."""
        table = np.zeros(int(self.instance_ids.max(initial=0)) + 1, dtype=np.int64)
        table[self.instance_ids] = self.labels + 1
        table[0] = 0
        return table

    def read_image(self, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Return a crop (C, d, h, w) int16; `pad_values` outside the volume. `start` may be negative.

        Raises:
            UserError: the file is missing or damaged.
        """
        return read_crop(self.files.image, start, size, self.pad_values)

    def read_instances(self, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Return a crop (d, h, w) uint16 of instance ids; 0 is background and outside.

        Raises:
            UserError: the case has no mask, or its file is missing or damaged.
        """
        if not self.has_mask:
            raise UserError(f"case {self.id} has no mask; ask `has_mask` first, or prepare it with a label file")
        return read_crop(self.files.mask, start, size)

    def read_label_map(self, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Return a crop (d, h, w) uint8: 0 is background and outside, `label + 1` inside objects.

        Raises:
            UserError: the case has no mask, or its file is missing or damaged.
        """
        result: np.ndarray = self.label_of_instance.astype(np.uint8)[self.read_instances(start, size)]
        return result

    def verify(self) -> None:
        """Read everything and compare it with the hash taken when it was written.

        Raises:
            UserError: a file is missing, or a bit of it changed; decompressing alone does not notice all changes.
        """
        instances = self.read_instances() if self.has_mask else None
        if self.has_mask and array_shape(self.files.mask) != self.grid.shape:
            raise UserError(
                f"case {self.id}: {self.folder} has a mask of another shape than its image; "
                "`medpretrain3d prepare RAW STORE --check` makes it again"
            )
        stored = array_shape(self.files.image)
        if stored != (self.num_channels, *self.grid.shape) or (
            content_sha256(self.sidecar, self.read_image(), instances) != self.sidecar["sha256"]
        ):
            raise UserError(
                f"case {self.id}: {self.folder} is not what was written (sha256 differs); "
                "`medpretrain3d prepare RAW STORE --check` makes it again"
            )
