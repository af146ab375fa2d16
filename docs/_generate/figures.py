"""What the figures share: a crop of the phantom, panels of slices, and one style."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from medpretrain3d.phantom import make_case
from medpretrain3d.store import Window

matplotlib.use("Agg")

SPACING_MM = 3.0
PATCH = (32, 64, 64)
CASES = (13, 9)
"""Of the phantom, with nodules large enough to be seen."""
OBJECT, CANDIDATE, OTHER = "#ffb000", "#35c9d4", "#d9566b"
"""Colors of what is to be found, of what the method looks at, and of a third thing; apart for every kind of eye."""


@dataclass(frozen=True)
class Crop:
    """A part of a synthetic chest CT around its largest nodule."""

    image: Tensor
    """(D, H, W) in [-1, 1]."""
    instances: Tensor
    """(D, H, W) int64, 0 for background."""
    box: tuple[int, ...]
    """Of the nodule, (d0, h0, w0, d1, h1, w1)."""
    slice: int
    """Along D, through the middle of the nodule."""


@functools.cache
def phantom_crop(index: int = CASES[0]) -> Crop:
    """The crop of a case of the phantom."""
    case = make_case(seed=0, index=index, spacing_mm=SPACING_MM)
    largest = int(np.argmax(case.diameters_mm)) + 1
    inside = np.argwhere(case.instances == largest)
    center = inside.mean(axis=0)
    size = np.array(case.image.shape)
    start = np.clip(np.round(center - np.array(PATCH) / 2), 0, np.maximum(size - PATCH, 0)).astype(int)
    d, h, w = (slice(first, first + edge) for first, edge in zip(start, PATCH, strict=True))
    image = torch.from_numpy(np.asarray(Window(-1000, 400)(case.image[d, h, w])))
    box = (*(inside.min(axis=0) - start), *(inside.max(axis=0) + 1 - start))
    middle = round(float(center[0] - start[0]))
    instances = torch.from_numpy(case.instances[d, h, w].astype(np.int64))
    return Crop(image, instances, tuple(int(edge) for edge in box), middle)


def batch() -> dict[str, Tensor]:
    """Crops of two cases, as an objective is fed with them."""
    images = torch.stack([phantom_crop(case).image[None] for case in CASES])
    return {"image": images, "seed": torch.arange(len(CASES))}


def panels(pictures: Mapping[str, Tensor | np.ndarray], middle: int | None = None, width: float = 3.0) -> Figure:
    """Slices of volumes (D, H, W) side by side, or pictures (H, W); whole numbers are drawn as labels in color."""
    figure = Figure(figsize=(width * len(pictures), width + 0.3), layout="constrained")
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
        array = np.asarray(picture)
        array = array if array.ndim == 2 else array[array.shape[0] // 2 if middle is None else middle]
        is_label = array.dtype.kind in "iu"
        ax.imshow(array, **({"cmap": "viridis"} if is_label else {"cmap": "gray", "vmin": -1, "vmax": 1}))
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    return figure


def slice_axes(title: str, margin: int | None = None, width: float = 4.2) -> tuple[Figure, Axes, Crop]:
    """The slice through the nodule, with its box, to draw upon; with a margin in voxels the part around it alone."""
    crop = phantom_crop()
    figure = Figure(figsize=(width, width + 0.2), layout="constrained")
    ax = figure.subplots()
    height, wide = crop.image.shape[1:]
    ax.imshow(crop.image[crop.slice], cmap="gray", vmin=-1, vmax=1, extent=(0, wide, height, 0))
    outline(ax, crop.box, OBJECT, 2.0)
    ax.set_title(title, fontsize=10)
    if margin is not None:
        _, h0, w0, _, h1, w1 = crop.box
        ax.set_xlim(w0 - margin, w1 + margin)
        ax.set_ylim(h1 + margin, h0 - margin)
    ax.set_axis_off()
    return figure, ax, crop


def outline(ax: Axes, box: Iterable[float], color: str, linewidth: float = 1.0, alpha: float = 1.0) -> None:
    """Draw a box (d0, h0, w0, d1, h1, w1) in the plane of H and W."""
    _, h0, w0, _, h1, w1 = (float(edge) for edge in box)
    ax.add_patch(Rectangle((w0, h0), w1 - w0, h1 - h0, fill=False, edgecolor=color, linewidth=linewidth, alpha=alpha))


def save(figure: Figure, path: Path) -> int:
    """Write a picture, without a date, and return how many pixels of a page it is wide."""
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    return round(85 * figure.get_size_inches()[0])
