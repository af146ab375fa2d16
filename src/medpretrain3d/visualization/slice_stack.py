"""Axial slices of a scan as one small grey picture, without boxes: a page draws those of any detector on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import finished_file
from medpretrain3d.documents import LARGE, SCHEMA, Artifact, Text, Whole
from medpretrain3d.store.grid import Grid, GridDocument
from medpretrain3d.visualization.box_pictures import Volume, covering_slices
from medpretrain3d.visualization.drawing import grey

MAX_SLICES = 6
LONGEST_EDGE_PX = 320
INDEX = "slices.json"


@with_config(SCHEMA)
class _Stack(TypedDict):
    indices: list[Whole]
    grid: GridDocument


@with_config(SCHEMA)
class _Document(TypedDict):
    cases: dict[Text, _Stack]


DOCUMENT = Artifact("medpretrain3d-slices", 1, _Document, "take the folder away; the page shows no slices", 1, LARGE)


@dataclass(frozen=True)
class SliceStack:
    """Axial slices of one scan.

    Rows of a slice grow to posterior and columns to the patient's left; pixels are square in the patient.
    """

    grid: Grid
    """Of the volume (D, H, W)."""
    indices: tuple[int, ...]
    """Places along D, from head to foot."""
    pixels: NDArray[np.uint8]
    """(K * height, width), one below the other."""


def slice_stack(
    image: Volume,
    grid: Grid,
    boxes: NDArray[np.floating],
    max_slices: int = MAX_SLICES,
    longest_edge_px: int = LONGEST_EDGE_PX,
    num_spread: int = 0,
) -> SliceStack:
    """Return slices that cut as many objects as possible, the same for every detector; the middle one without objects.

    Args:
        image: (D, H, W) in [-1, 1], canonical.
        grid: of the image.
        boxes: (N, 6) true boxes in voxels.
        max_slices: that are kept.
        longest_edge_px: of a slice.
        num_spread: further slices, spread evenly over the scan.
    """
    spread = np.linspace(0, image.shape[0] - 1, num_spread + 2)[1:-1].round().astype(int).tolist()
    indices = sorted({*covering_slices(boxes, 0, image.shape[0], max_slices), *spread}, reverse=True)
    size_mm = image.shape[1] * grid.spacing_mm[1], image.shape[2] * grid.spacing_mm[2]
    px_per_mm = longest_edge_px / max(size_mm)
    height, width = (max(1, round(edge * px_per_mm)) for edge in size_mm)
    planes = [Image.fromarray(grey(image[index])[..., 0]) for index in indices]
    resized = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes]
    return SliceStack(grid, tuple(indices), np.concatenate(resized))


def write_slices(folder: Path, stacks: Mapping[str, SliceStack]) -> None:
    """Write a picture per case, and `slices.json`, which says where in the patient they are.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    for case, stack in stacks.items():
        with finished_file(folder / f"{case}.png") as unfinished:
            Image.fromarray(stack.pixels).save(unfinished, format="PNG")
    cases = {case: {"indices": list(one.indices), "grid": one.grid.to_json()} for case, one in stacks.items()}
    DOCUMENT.write(folder / INDEX, {"cases": cases})


def read_slice_index(folder: Path) -> dict[str, tuple[Grid, tuple[int, ...]]]:
    """Return grid and slices of each case that has a picture in the folder; none where there is no such folder.

    Raises:
        UserError: `slices.json` is damaged.
    """
    if not (folder / INDEX).is_file():
        return {}
    cases: dict[str, Any] = DOCUMENT.read(folder / INDEX)["cases"]
    return {case: (Grid.from_json(one["grid"]), tuple(one["indices"])) for case, one in cases.items()}
