"""A figure per detector: what is responsible for an object in training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from _generate.figures import CANDIDATE, OBJECT, OTHER, PATCH, outline, panels, phantom_crop, slice_axes
from medpretrain3d.boxes import Targets, box_center
from medpretrain3d.detection import AnchorGrid, ATSSMatcher, BallTarget, CenterSampling, PointGrid, SetLoss
from medpretrain3d.detection.heat_targets import heat_maps
from medpretrain3d.detection.set_loss import UnitTargets, to_unit

STRIDES = [(4, 4, 4), (8, 8, 8)]


def _shapes() -> list[tuple[int, int, int]]:
    return [(PATCH[0] // d, PATCH[1] // h, PATCH[2] // w) for d, h, w in STRIDES]


def _centers(boxes: Tensor) -> np.ndarray:
    return box_center(boxes).numpy()


def draw_anchors() -> Figure:
    """The positive anchors of an object."""
    figure, ax, crop = slice_axes("anchors given to the object", margin=12)
    grid = AnchorGrid([[(6, 6, 6), (9, 9, 9)], [(12, 12, 12), (18, 18, 18)]])
    anchors = grid(_shapes(), STRIDES, "cpu")
    matcher = ATSSMatcher()
    matched = matcher(torch.tensor([crop.box]).float(), anchors, grid.per_level(_shapes()), grid.per_cell)
    cells = _centers(anchors[: grid.per_level(_shapes())[0] : grid.per_cell])
    near = np.abs(cells[:, 0] - crop.slice) <= STRIDES[0][0] / 2
    ax.plot(cells[near, 2], cells[near, 1], ".", color="white", markersize=2, alpha=0.5)
    for anchor in anchors[matched >= 0]:
        outline(ax, anchor, CANDIDATE, 1.2, 0.9)
    return figure


def draw_segmentation() -> Figure:
    """What the segmentation branch learns beside the boxes."""
    crop = phantom_crop()
    target = torch.where(crop.instances > 0, 1, 0)
    figure = panels({"boxes, by anchors": crop.image, "mask, voxel by voxel": target}, crop.slice)
    outline(figure.axes[0], np.array(crop.box) - 0.5, OBJECT, 2)
    return figure


def draw_points() -> Figure:
    """The positive cells of an object, and the distances to its sides."""
    figure, ax, crop = slice_axes("cells around the center, distances to the sides", margin=8)
    grid = PointGrid(len(STRIDES))
    cells = grid(_shapes(), STRIDES, "cpu")
    matched = CenterSampling()(torch.tensor([crop.box]).float(), cells, grid.per_level(_shapes()), 1)
    points = _centers(cells)
    near = (np.abs(points[:, 0] - crop.slice) <= STRIDES[0][0] / 2) & (
        np.arange(len(points)) < grid.per_level(_shapes())[0]
    )
    ax.plot(points[near, 2], points[near, 1], ".", color="white", markersize=2, alpha=0.5)
    positive = points[(matched >= 0).numpy()]
    ax.plot(positive[:, 2], positive[:, 1], "o", color=CANDIDATE, markersize=5)
    _, h, w = positive[np.abs(positive[:, 0] - crop.slice).argmin()]
    _, h0, w0, _, h1, w1 = crop.box
    for x, y in ((w0, h), (w1, h), (w, h0), (w, h1)):
        ax.annotate("", xy=(x, y), xytext=(w, h), arrowprops={"arrowstyle": "->", "color": OTHER, "lw": 1.5})
    return figure


def draw_heat_map() -> Figure:
    """The nodule, and the target of the map beside it."""
    crop = phantom_crop()
    shape = (PATCH[0] // 2, PATCH[1] // 2, PATCH[2] // 2)
    targets = Targets(torch.tensor([crop.box]).float(), torch.tensor([0]))
    heat = heat_maps([targets], shape, (2, 2, 2), (1.0, 1.0, 1.0), 1, BallTarget(radius_mm=12.0)).heat.view(shape)
    for axis in range(3):
        heat = heat.repeat_interleave(2, dim=axis)
    figure = panels({"object": crop.image, "target of the map, stride 2": 2 * heat - 1}, crop.slice)
    outline(figure.axes[0], np.array(crop.box) - 0.5, OBJECT, 2)
    return figure


def draw_queries() -> Figure:
    """Queries, and the one that the Hungarian matching gives to the object."""
    figure, ax, crop = slice_axes("one query is given to the object")
    random = np.random.default_rng(4)
    low = random.uniform((0, 0, 0), np.array(PATCH) * 0.8, (24, 3))
    low[:, 0] = crop.box[0]
    queries = np.concatenate([low, low + random.uniform(6, 18, (24, 3))], axis=1)
    unit = to_unit(torch.tensor(queries).float(), PATCH)
    targets = UnitTargets(to_unit(torch.tensor([crop.box]).float(), PATCH), torch.tensor([0]))
    matched = SetLoss().match(torch.zeros(len(unit), 1), unit, targets)
    for query, index in zip(queries, matched.tolist(), strict=True):
        outline(ax, query, CANDIDATE if index >= 0 else "white", 2.5 if index >= 0 else 0.8, 1 if index >= 0 else 0.6)
    return figure


FIGURES: dict[str, tuple[Callable[[], Figure], str]] = {
    "RetinaNet": (
        draw_anchors,
        "A nodule (yellow), cells of the finest level (dots), and the anchors that ATSS gives to it (cyan).",
    ),
    "RetinaUNet": (
        draw_segmentation,
        "RetinaNet with a segmentation branch: what masks show beyond boxes is learnt as well.",
    ),
    "FCOS": (
        draw_points,
        "Cells near the center of the nodule (cyan) predict the distances to its six sides (red; here four of them).",
    ),
    "HeatMap": (
        draw_heat_map,
        "The map to be learned: 1 at the center of the nodule, falling to 0 at the radius of a ball (here 12 voxels).",
    ),
    "DeformableDETR": (
        draw_queries,
        "Queries (white) are a set: the one with the least cost (cyan) is given to the nodule, the others to nothing.",
    ),
}
