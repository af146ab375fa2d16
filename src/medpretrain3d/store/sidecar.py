"""The sidecar of a case, `case.json`: where its voxels lie, what is in them, and hashes of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, cast

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict
from xxhash import xxh3_64_hexdigest

from medpretrain3d.documents import SCHEMA, SMALL, Number, Text, Whole, parse_json
from medpretrain3d.errors import UserError
from medpretrain3d.store.case_files import CaseFiles
from medpretrain3d.store.grid import Grid, GridDocument
from medpretrain3d.store.hidden_objects import OVERLAPPING, PARTLY_HIDDEN
from medpretrain3d.store.points import are_points
from medpretrain3d.store.statistics import StatisticsDocument

VERSION = 4
"""Of a case's files; `prepare` makes a case of another version anew."""

MAX_CLASSES = 255
"""Of a store: a label map holds each class and the background in 8 bits."""

CARRIED = ("source_file", "patient", "statistics", "voxels")
"""Keys of a sidecar that its hash does not cover and that a case made of this one has from it."""


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
    label: Annotated[Whole, Field(lt=MAX_CLASSES)]
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
    partly_hidden: NotRequired[list[Annotated[Whole, Field(lt=2**16)]]]
    object_voxels: NotRequired[list[Whole | None]]
    ignore_boxes_vox: list[_Box]
    sha256: Text
    bytes: int


def read_sidecar(files: CaseFiles) -> dict[str, Any]:
    """Return what the sidecar of a case says.

    Raises:
        UserError: the case is missing or its sidecar is damaged.
    """
    name, path = files.case_id, files.sidecar
    try:
        if path.size() > SMALL:
            raise UserError(f"{path} is damaged: it has {path.size():,} bytes, wanted at most {SMALL:,}")
        content = path.read()
    except UserError as error:
        raise UserError(f"case {name}: {error}") from error
    try:
        advice = "it is damaged, `medpretrain3d prepare RAW STORE` makes it again"
        sidecar = parse_json(content, str(path), Sidecar, advice)
        _check_sidecar(sidecar, name)
        return cast(dict[str, Any], sidecar)
    except UserError as error:
        message = str(error) if str(error).startswith(str(path)) else f"{path} is damaged: {error}"
        raise UserError(f"case {name}: {message}") from error


def index_row(sidecar: Mapping[str, Any], files: CaseFiles | None = None) -> dict[str, Any]:
    """Return a case's row of the store's index; `counts` has the objects of each class up to the last one present.

    Args:
        sidecar: what `case.json` says.
        files: where they lie, which the row says too if that is a container.
    """
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
        **({"container": files.container, "extents": files.extents} if files and files.container else {}),
    }


def _check_sidecar(sidecar: Sidecar, name: str) -> None:
    """Values that hang together."""
    channels = sidecar["num_channels"]
    if sidecar["version"] != VERSION:
        raise UserError(f"is of version {sidecar['version']}, wanted {VERSION}; prepare the case again")
    remarks = cast(dict[str, Any], sidecar).get("remarks")
    if PARTLY_HIDDEN not in sidecar and isinstance(remarks, dict) and OVERLAPPING in remarks:
        raise UserError("does not say which of its objects others hide; prepare the case again")
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
    is_whole = (boxes[:, :3] < boxes[:, 3:]).all(axis=1) | are_points(boxes)
    if not (is_whole.all() and (boxes[:, :3] >= -0.5).all() and (boxes[:, 3:] <= shape + 0.5).all()):
        raise UserError("has a box that is empty or outside the volume; prepare the case again")


def content_sha256(sidecar: Mapping[str, Any], image: np.ndarray, instances: np.ndarray | None) -> str:
    """Hash of what training sees: geometry, objects and voxels, not names or dates."""
    seen = {
        key: sidecar[key] for key in ("grid", "source_grid", "instances", "ignore_boxes_vox", "pad_values", "rescale")
    }
    if sidecar.get(PARTLY_HIDDEN):
        seen[PARTLY_HIDDEN] = sidecar[PARTLY_HIDDEN]
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
