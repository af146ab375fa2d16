"""What is written about a case: its files as bytes, the same for the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.store.arrays import array_bytes
from medpretrain3d.store.case_files import IMAGE, MASK, SIDECAR
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.hidden_objects import PARTLY_HIDDEN
from medpretrain3d.store.sidecar import VERSION, Instance, content_sha256, sidecar_checksum, voxels_sha256
from medpretrain3d.store.statistics import ChannelStatistics, channel_statistics
from medpretrain3d.store.stored_file import StoredFile

AIR_HU = -1024
"""Lowest value of an image and what surrounds it: CT's air, below which scanners only write padding."""


@dataclass(frozen=True)
class CaseData:
    """Everything that is written about a case.

    Raises:
        UserError: a box is empty or outside the volume, or the mask is of another shape than the image.
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
    """Boxes half-open, in voxels of `grid`; one whose two corners are one is a point, see `points`."""
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
    pad_values: Sequence[int] = ()
    """Lowest value of each channel of the file's image where it is not in HU, which prediction pads with too; empty
    where that is `image`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Source files and options, by which `prepare` knows a finished case again."""
    partly_hidden: Sequence[int] = ()
    """Ids of objects whose ends `mask` does not show, since smaller ones hide them there."""
    image_file: StoredFile | None = None
    """A file that holds `image` as it would be written: it is referred to where it is a file of its own."""

    def __post_init__(self) -> None:
        """Refuse a mask of another shape, and boxes that are empty or outside the volume, before they are written."""
        if self.mask is not None and self.mask.shape != self.grid.shape:
            raise UserError(
                f"case {self.case_id}: its mask has {self.mask.shape} voxels, its image {self.grid.shape}; wanted the "
                "same"
            )
        _check_boxes(self)


def case_contents(case_data: CaseData) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the sidecar of a case, and its files by name in the order in which they are written."""
    pad_values = (
        list(case_data.pad_values) or [int(channel.min()) for channel in case_data.image]
        if case_data.rescale
        else [AIR_HU] * len(case_data.image)
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
        PARTLY_HIDDEN: list(case_data.partly_hidden),
        **case_data.facts,
    }
    sidecar["sha256"] = content_sha256(sidecar, case_data.image, case_data.mask)
    file = case_data.image_file
    contents = {IMAGE: array_bytes(case_data.image) if file is None else file.read()}
    if case_data.mask is not None:
        contents[MASK] = array_bytes(case_data.mask)
    sidecar["file_bytes"] = {name: len(content) for name, content in contents.items()}
    sidecar["bytes"] = sum(sidecar["file_bytes"].values())
    contents[SIDECAR] = sidecar_bytes(sidecar)
    return sidecar, contents


def sidecar_bytes(sidecar: dict[str, Any]) -> bytes:
    """Return a sidecar as it is written; its checksum is set."""
    sidecar["checksum"] = sidecar_checksum(sidecar)
    return json_text(sidecar, indent=1).encode()


def _check_boxes(case_data: CaseData) -> None:
    for one in case_data.objects:
        low, high = np.array(one.box_vox[:3]), np.array(one.box_vox[3:])
        # A resampled volume may end up to half a voxel before the file's last face.
        inside = (low >= -0.5).all() and (high <= np.array(case_data.grid.shape) + 0.5).all()
        if not (np.isfinite([low, high]).all() and ((low < high).all() or (low == high).all()) and inside):
            box = [round(edge, 2) for edge in one.box_vox]
            raise UserError(
                f"case {case_data.case_id}: box {box} of object {one.id} is empty or "
                f"outside the volume of {case_data.grid.shape} voxels; correct the annotation, min corner first"
            )
