"""One case of a store: voxels read crop by crop, and a sidecar that says where they lie and what is in them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict
from xxhash import xxh3_64_hexdigest

from medpretrain3d.atomic import finished_folder
from medpretrain3d.documents import SCHEMA, Number, Text, Whole, json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_name
from medpretrain3d.store.arrays import array_shape, read_crop, write_array
from medpretrain3d.store.grid import Grid, GridDocument
from medpretrain3d.store.statistics import ChannelStatistics, StatisticsDocument, channel_statistics
from medpretrain3d.store.unit import Unit

CASES, IMAGE, MASK, SIDECAR = "cases", "image.b2nd", "mask.b2nd", "case.json"
VERSION = 4
"""Of a case's files; `prepare` makes a case of another version anew."""
AIR_HU = -1024
"""Lowest value of an image and what surrounds it: CT's air, below which scanners only write padding."""


@dataclass(frozen=True)
class Instance:
    """One object: its value in the mask (0 where it has no voxel there), class from 0, box (6,) in voxels."""

    id: int
    label: int
    box_vox: tuple[float, ...]
    num_voxels: int | None = field(default=None, compare=False)
    """Of the file it was found in, before resampling; None for one that was marked by numbers."""


_Box = Annotated[list[Number], Field(min_length=6, max_length=6)]


@with_config(SCHEMA)
class _Instance(TypedDict):
    id: Annotated[Whole, Field(lt=2**16)]
    label: Annotated[Whole, Field(lt=255)]
    box_vox: _Box


@with_config(SCHEMA)
class Sidecar(TypedDict):
    """Schema of `case.json`."""

    version: Whole
    id: Text
    source_file: Text
    patient: Text | None
    num_channels: Annotated[Whole, Field(ge=1)]
    has_mask: bool
    pad_values: list[Annotated[int, Field(ge=-(2**15), lt=2**15)]]
    rescale: list[Annotated[list[Number], Field(min_length=2, max_length=2)]]
    statistics: list[StatisticsDocument]
    voxels: Text
    grid: GridDocument
    source_grid: GridDocument
    instances: list[_Instance]
    object_voxels: NotRequired[list[Whole | None]]
    ignore_boxes_vox: list[_Box]
    sha256: Text
    bytes: int


@dataclass(frozen=True)
class CaseData:
    """Everything that is written about a case.

    Raises:
        UserError: a box is empty or outside the volume.
    """

    case_id: str
    image: np.ndarray
    """(C, D, H, W) int16; HU, or see `rescale`."""
    grid: Grid
    """Of `image`."""
    source_grid: Grid
    """Of the file it came from, in the file's own array order."""
    source_file: str
    """Name of that file, without folders."""
    objects: Sequence[Instance] = ()
    """Boxes half-open, in voxels of `grid`."""
    mask: np.ndarray | None = None
    """(D, H, W) uint16 object ids, or None where there is no mask."""
    ignore_boxes: Sequence[tuple[float, ...]] = ()
    """Regions (6,) in which finding something is ignored; half-open, in voxels of `grid`."""
    patient: str | None = None
    """Pseudonym under which several cases belong together."""
    rescale: Sequence[tuple[float, float]] = ()
    """Slope and intercept per channel where it is not in HU: the file's values are `slope * image + intercept`."""
    voxels: str = ""
    """`voxels_sha256` of the file's image; empty where that is `image`."""
    statistics: Sequence[ChannelStatistics] = ()
    """Of the file's image, by which prediction normalises too; empty where that is `image`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Source files and options, by which `prepare` knows a finished case again."""

    def __post_init__(self) -> None:
        """Refuse boxes that are empty or outside the volume, before anything is written."""
        _check_boxes(self)


def case_folder(store: Path, case_id: str) -> Path:
    """Return the folder of a case of a store.

    Raises:
        UserError: the id cannot be a folder's name inside the store.
    """
    return Path(store) / CASES / plain_name(case_id, "case id")


def write_case(store: Path, case_data: CaseData) -> dict[str, Any]:
    """Write a case completely or not at all, in place of an older one; returns its row for the index.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    pad_values = (
        [int(channel.min()) for channel in case_data.image] if case_data.rescale else [AIR_HU] * len(case_data.image)
    )
    sidecar = {
        "version": VERSION,
        "id": case_data.case_id,
        "source_file": case_data.source_file,
        "patient": case_data.patient,
        "num_channels": len(case_data.image),
        "has_mask": case_data.mask is not None,
        "pad_values": pad_values,
        "rescale": [list(one) for one in case_data.rescale],
        "statistics": [
            one.to_json() for one in case_data.statistics or channel_statistics(case_data.image, pad_values)
        ],
        "voxels": case_data.voxels or voxels_sha256(case_data.image),
        "grid": case_data.grid.to_json(),
        "source_grid": case_data.source_grid.to_json(),
        "instances": [
            {"id": one.id, "label": one.label, "box_vox": [float(edge) for edge in one.box_vox]}
            for one in case_data.objects
        ],
        "object_voxels": [one.num_voxels for one in case_data.objects],
        "ignore_boxes_vox": [[float(edge) for edge in box] for box in case_data.ignore_boxes],
        **case_data.facts,
    }
    sidecar["sha256"] = content_sha256(sidecar, case_data.image, case_data.mask)
    with finished_folder(case_folder(store, case_data.case_id), replace=(SIDECAR, IMAGE, MASK)) as unfinished:
        write_array(unfinished / IMAGE, case_data.image)
        if case_data.mask is not None:
            write_array(unfinished / MASK, case_data.mask)
        sidecar["file_bytes"] = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
        sidecar["bytes"] = sum(sidecar["file_bytes"].values())
        sidecar["checksum"] = sidecar_checksum(sidecar)
        (unfinished / SIDECAR).write_text(json_text(sidecar, indent=1), encoding="utf-8")
    return index_row(sidecar)


def index_row(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case's row of the store's index; `counts` has the objects of each class up to the last one present."""
    labels = np.array([instance["label"] for instance in sidecar["instances"]], dtype=np.int64)
    return {
        "id": sidecar["id"],
        "shape": sidecar["grid"]["shape"],
        "num_objects": len(labels),
        "counts": np.bincount(labels).tolist(),
        "has_mask": sidecar["has_mask"],
        "patient": sidecar["patient"],
        "bytes": sidecar["bytes"],
        "voxels": sidecar["voxels"],
        "sha256": sidecar["sha256"],
    }


def _check_sidecar(sidecar: Sidecar, name: str) -> None:
    """Values that hang together."""
    channels = sidecar["num_channels"]
    if sidecar["version"] != VERSION:
        raise UserError(f"is of version {sidecar['version']}, wanted {VERSION}; prepare the case again")
    if sidecar["id"] != name:
        raise UserError(f"is that of case {sidecar['id']!r}; prepare both cases again")
    counts = [len(sidecar["pad_values"]), len(sidecar["statistics"]), len(sidecar["rescale"]) or channels]
    if counts != [channels] * 3:
        raise UserError(f"has {channels} channels, but {counts} values per channel; prepare the case again")
    Grid.from_json(sidecar["grid"])
    Grid.from_json(sidecar["source_grid"])
    ids = [one["id"] for one in sidecar["instances"] if one["id"]]
    if len(set(ids)) < len(ids):
        raise UserError("has two objects of one id; prepare the case again")
    shape = np.array(sidecar["grid"]["shape"])
    boxes = np.array([one["box_vox"] for one in sidecar["instances"]]).reshape(-1, 6)
    if not ((boxes[:, :3] < boxes[:, 3:]) & (boxes[:, :3] >= -0.5) & (boxes[:, 3:] <= shape + 0.5)).all():
        raise UserError("has a box that is empty or outside the volume; prepare the case again")


def _check_boxes(case_data: CaseData) -> None:
    for one in case_data.objects:
        low, high = np.array(one.box_vox[:3]), np.array(one.box_vox[3:])
        # A resampled volume may end up to half a voxel before the file's last face.
        inside = (low >= -0.5).all() and (high <= np.array(case_data.grid.shape) + 0.5).all()
        if not (np.isfinite([low, high]).all() and (low < high).all() and inside):
            box = [round(edge, 2) for edge in one.box_vox]
            raise UserError(
                f"case {case_data.case_id}: box {box} of object {one.id} is empty or "
                f"outside the volume of {case_data.grid.shape} voxels; correct the annotation, min corner first"
            )


def content_sha256(sidecar: Mapping[str, Any], image: np.ndarray, instances: np.ndarray | None) -> str:
    """Hash of what training sees: geometry, objects and voxels, not names or dates."""
    seen = {
        key: sidecar[key] for key in ("grid", "source_grid", "instances", "ignore_boxes_vox", "pad_values", "rescale")
    }
    digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode())
    for array in (image, instances):
        if array is not None:
            digest.update(str((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sidecar_checksum(sidecar: Mapping[str, Any]) -> str:
    """Return XXH3 of everything that a sidecar says but this."""
    said = {key: value for key, value in sidecar.items() if key != "checksum"}
    return xxh3_64_hexdigest(json.dumps(said, sort_keys=True).encode())


def voxels_sha256(image: np.ndarray) -> str:
    """Hash of an image (C, D, H, W) in the canonical frame: the same for copies of a scan under other names.

    Of the image before it is resampled, so that copies are found across stores.
    """
    digest = hashlib.sha256(str((image.shape, image.dtype.str)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


class Case:
    """A case of a store. Opening it reads the sidecar; voxels stay on disk until asked for.

    Args:
        folder: `STORE/cases/<id>`.
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

    def __init__(self, folder: Path, sidecar: dict[str, Any]) -> None:
        self.folder = folder
        self.sidecar = sidecar
        self.id: str = sidecar["id"]
        self.source_file: str = sidecar["source_file"]
        self.num_channels: int = sidecar["num_channels"]
        self.has_mask: bool = sidecar["has_mask"]
        self.pad_values: tuple[int, ...] = tuple(sidecar["pad_values"])
        """What surrounds the volume in each channel: -1024 for HU, else the lowest value."""
        self.rescale: tuple[tuple[float, float], ...] = tuple((slope, start) for slope, start in sidecar["rescale"])
        """Slope and intercept per channel that lead back to the file's values; empty for HU."""

    @staticmethod
    def open(folder: Path) -> Case:
        """Read the sidecar of a case.

        Raises:
            UserError: the folder is missing or its sidecar is damaged.
        """
        path = folder / SIDECAR
        if not path.is_file():
            raise UserError(f"case {folder.name}: {path} is missing; prepare the case again")
        try:
            sidecar = read_json(path, Sidecar, "it is damaged, `medpretrain3d prepare RAW STORE` makes it again")
            _check_sidecar(sidecar, folder.name)
            return Case(folder, cast(dict[str, Any], sidecar))
        except UserError as error:
            message = str(error) if str(error).startswith(str(path)) else f"{path} is damaged: {error}"
            raise UserError(f"case {folder.name}: {message}") from error

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
        return read_crop(self.folder / IMAGE, start, size, self.pad_values)

    def read_instances(self, start: Sequence[int] | None = None, size: Sequence[int] | None = None) -> np.ndarray:
        """Return a crop (d, h, w) uint16 of instance ids; 0 is background and outside.

        Raises:
            UserError: the case has no mask, or its file is missing or damaged.
        """
        if not self.has_mask:
            raise UserError(f"case {self.id} has no mask; ask `has_mask` first, or prepare it with a label file")
        return read_crop(self.folder / MASK, start, size)

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
        stored = array_shape(self.folder / IMAGE)
        if stored != (self.num_channels, *self.grid.shape) or (
            content_sha256(self.sidecar, self.read_image(), instances) != self.sidecar["sha256"]
        ):
            raise UserError(
                f"case {self.id}: {self.folder} is not what was written (sha256 differs); "
                "`medpretrain3d prepare RAW STORE --check` makes it again"
            )
