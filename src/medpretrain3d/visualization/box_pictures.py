"""Boxes on slices of a volume: the truth and what was found.

The volume is (D, H, W), canonical: D grows to superior, H to posterior, W to the patient's left. Shown the
radiologist's way: anterior or superior on top, the patient's right on the left of the picture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medpretrain3d.visualization.drawing import (
    DETECTION,
    LETTERS_PX,
    TEXT,
    TRUTH,
    VIEWS,
    Rectangle,
    Rgb,
    cut_slices,
    dashed_rectangle,
    draw_scale,
    font,
    grey,
    outlined,
    with_seen_points,
)
from medpretrain3d.visualization.sheet import sheet_of

LEFT_EDGE = ("R", "R", "A")  # what lies on the left of each view
Volume = NDArray[np.floating[Any]]


def boxes_on_slices(
    image: Volume,
    spacing_mm: Sequence[float],
    boxes: NDArray[Any],
    labels: NDArray[Any],
    det_boxes: NDArray[Any],
    det_scores: NDArray[Any],
    det_labels: NDArray[Any],
    classes: Sequence[str],
    max_panels: int = 6,
    panel_px: int = 320,
    num_further: int = 3,
) -> Rgb:
    """Return slices through the objects and the best detections: truth in solid blue, detections in dashed orange.

    Up to `max_panels - 2` axial slices are chosen so that together they cut as many objects as possible, then as many
    detections; closely framed, and listed from head to foot. Then one coronal and one sagittal slice of the whole.
    Of the detections, the best `N + num_further` are drawn, N being the number of objects; a score stands alone where
    the detection meets an object of its class.

    Args:
        image: (D, H, W) in [-1, 1].
        spacing_mm: along (D, H, W); panels have the patient's proportions.
        boxes: (N, 6) true boxes in voxels, half-open.
        labels: (N,) index into `classes`.
        det_boxes: (M, 6) detections in voxels.
        det_scores: (M,) in [0, 1].
        det_labels: (M,) index into `classes`.
        classes: names.
        max_panels: at least 1; fewer than 3 leaves out the coronal and sagittal slices.
        panel_px: pixels of a panel's longer edge.
        num_further: detections that are drawn beyond the number of objects.
    """
    overlays = _overlays(boxes, labels, det_boxes, det_scores, det_labels, classes, num_further)
    num_axial = max_panels - 2 if max_panels >= 3 else max_panels
    cuts = [(0, index) for index in sorted(_covering_slices(overlays, 0, image.shape[0], num_axial), reverse=True)]
    if max_panels >= 3:
        cuts += [(axis, _covering_slices(overlays, axis, image.shape[axis], 1)[0]) for axis in (1, 2)]
    panels = [_panel(image, spacing_mm, overlays, axis, index, panel_px) for axis, index in cuts]
    solid = "solid: truth" if len(boxes) else ""
    return sheet_of(panels, solid, "dashed: detection, with its score" if len(det_boxes) else "")


@dataclass(frozen=True)
class BoxSlice:
    """An axial slice with the boxes that it cuts, for viewers that draw them themselves."""

    index: int
    image: NDArray[np.uint8]
    """(H, W)."""
    boxes: NDArray[np.float64]
    """(N, 4) truth: left, top, right, bottom in pixels."""
    labels: NDArray[np.int64]
    det_boxes: NDArray[np.float64]
    """(M, 4)."""
    det_labels: NDArray[np.int64]
    det_scores: NDArray[np.float64]


def box_slices(
    image: Volume,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    det_boxes: NDArray[Any],
    det_scores: NDArray[Any],
    det_labels: NDArray[Any],
    max_slices: int = 4,
) -> list[BoxSlice]:
    """Return the axial slices of `boxes_on_slices`, not framed, from head to foot, with the same detections.

    Args:
        image: (D, H, W) in [-1, 1].
        boxes: (N, 6) true boxes in voxels, half-open.
        labels: (N,).
        det_boxes: (M, 6) detections in voxels.
        det_scores: (M,) in [0, 1].
        det_labels: (M,).
        max_slices: at most.
    """
    best = np.argsort(-np.asarray(det_scores), kind="stable")[: len(boxes) + 3]
    truth = [_Overlay(box, "") for box in with_seen_points(boxes)]
    found = [_Overlay(np.asarray(det_boxes[i], np.float64), "", float(det_scores[i])) for i in best]
    indices = sorted(_covering_slices([*truth, *found], 0, image.shape[0], max_slices), reverse=True)

    def cut_by(index: int, overlays: list[_Overlay]) -> tuple[list[int], NDArray[np.float64]]:
        rows = [row for row, overlay in enumerate(overlays) if overlay.intersects_slice(0, index)]
        return rows, np.array([overlays[row].box[[2, 1, 5, 4]] for row in rows], np.float64).reshape(-1, 4)

    slices = []
    for index in indices:
        (rows, true_boxes), (found_rows, found_boxes) = cut_by(index, truth), cut_by(index, found)
        order = best[found_rows]
        slices.append(
            BoxSlice(
                index,
                grey(image[index])[..., 0],
                true_boxes,
                np.asarray(labels, np.int64)[rows],
                found_boxes,
                np.asarray(det_labels, np.int64)[order],
                np.asarray(det_scores, np.float64)[order],
            )
        )
    return slices


@dataclass(frozen=True)
class _Overlay:
    """A box to draw, in voxels (6,), with its text; `score` is None for an object."""

    box: NDArray[np.float64]
    text: str
    score: float | None = None

    @property
    def is_truth(self) -> bool:
        return self.score is None

    @property
    def weight(self) -> float:
        """Weight of the mark in the choice of slices; a detection of score 0 weighs more than none."""
        return 1.0 if self.score is None else max(self.score, 1e-6)

    @functools.cached_property
    def slices(self) -> list[range]:
        """Those that it cuts along each axis."""
        return [range(first, stop) for first, stop in np.stack(cut_slices(self.box[:3], self.box[3:]), axis=1).tolist()]

    def intersects_slice(self, axis: int, index: int) -> bool:
        return index in self.slices[axis]

    def meets(self, box: NDArray[Any]) -> bool:
        return bool((self.box[:3] < box[3:]).all() and (box[:3] < self.box[3:]).all())


def _overlays(
    boxes: NDArray[Any],
    labels: NDArray[Any],
    det_boxes: NDArray[Any],
    det_scores: NDArray[Any],
    det_labels: NDArray[Any],
    classes: Sequence[str],
    num_further: int,
) -> list[_Overlay]:
    overlays = [_Overlay(box, classes[int(label)]) for box, label in zip(with_seen_points(boxes), labels, strict=True)]
    truths = list(zip(overlays, labels, strict=True))
    for i in np.argsort(-np.asarray(det_scores), kind="stable")[: len(truths) + num_further]:
        label, score = int(det_labels[i]), float(det_scores[i])
        is_clear = any(truth.meets(det_boxes[i]) and int(other) == label for truth, other in truths)
        text = f"{score:.2f}" if is_clear else f"{classes[label]} {score:.2f}"
        overlays.append(_Overlay(np.asarray(det_boxes[i], np.float64), text, score))
    return overlays


def covering_slices(boxes: NDArray[Any], axis: int, size: int, count: int) -> list[int]:
    """Return at most `count` slices that cut as many boxes (N, 6) as possible; the middle one without boxes."""
    return _covering_slices([_Overlay(box, "") for box in with_seen_points(boxes)], axis, size, count)


def _covering_slices(overlays: list[_Overlay], axis: int, size: int, count: int) -> list[int]:
    """At most `count` slices that cut as many overlays as possible, greedily; the middle one where there are none.

    Objects choose first, so that pictures of one case from different detectors show the same slices.
    """
    chosen: list[int] = []
    for wanted in ([m for m in overlays if m.is_truth], [m for m in overlays if not m.is_truth]):
        missing = [overlay for overlay in wanted if not any(overlay.intersects_slice(axis, index) for index in chosen)]
        centers = sorted({int(np.clip((m.box[axis] + m.box[axis + 3]) / 2, 0, size - 1)) for m in missing})
        while missing and len(chosen) < count:
            gains = [sum(m.weight for m in missing if m.intersects_slice(axis, index)) for index in centers]
            if max(gains) == 0:
                break  # what is left lies outside the volume
            chosen.append(centers[int(np.argmax(gains))])
            missing = [overlay for overlay in missing if not overlay.intersects_slice(axis, chosen[-1])]
    return chosen or [size // 2]


def _panel(
    image: Volume, spacing_mm: Sequence[float], overlays: list[_Overlay], axis: int, index: int, panel_px: int
) -> tuple[str, Image.Image]:
    rows, columns = (edge for edge in range(3) if edge != axis)
    cut = [overlay for overlay in overlays if overlay.intersects_slice(axis, index)]
    low, high = [0.0, 0.0], [float(image.shape[rows]), float(image.shape[columns])]
    if axis == 0 and cut:
        low, high = _frame(cut, (rows, columns), image.shape, spacing_mm)
    size_mm = [(high[0] - low[0]) * spacing_mm[rows], (high[1] - low[1]) * spacing_mm[columns]]
    px_per_mm = panel_px / max(size_mm)
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    plane = np.take(image, index, axis=axis)[window]
    size = max(1, round(size_mm[1] * px_per_mm)), max(1, round(size_mm[0] * px_per_mm))
    picture = Image.fromarray(grey(plane)).resize(size, Image.Resampling.BILINEAR)
    is_flipped = axis != 0  # D grows upwards in the patient, rows grow downwards in the picture
    if is_flipped:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    rectangles = []
    for overlay in cut:
        top, bottom = ((overlay.box[rows + side] - low[0]) * spacing_mm[rows] * px_per_mm for side in (0, 3))
        left, right = ((overlay.box[columns + side] - low[1]) * spacing_mm[columns] * px_per_mm for side in (0, 3))
        if is_flipped:
            top, bottom = size[1] - bottom, size[1] - top
        rectangles.append((overlay, (float(left), float(top), float(right), float(bottom))))
    draw = ImageDraw.Draw(picture)
    _draw_boxes(draw, rectangles, size)
    outlined(draw, (5, size[1] / 2), LEFT_EDGE[axis], TEXT, anchor="lm")
    draw_scale(draw, size, px_per_mm)
    return f"{VIEWS[axis]}, slice {index} of {image.shape[axis]}", picture


def _frame(
    overlays: list[_Overlay], axes: tuple[int, int], shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return an axial panel's field of view: the overlays with 30 mm around them, at least 160 mm, square where the
    slice allows."""
    # 160 mm on 320 pixels: a nodule of 6 mm still has a box of 12 pixels.
    hulls = [(min(m.box[a] for m in overlays), max(m.box[a + 3] for m in overlays)) for a in axes]
    edge_mm = max(160.0, *((b - a) * spacing_mm[axis] + 60 for (a, b), axis in zip(hulls, axes, strict=True)))
    low, high = [], []
    for (a, b), axis in zip(hulls, axes, strict=True):
        extent = min(float(np.ceil(edge_mm / spacing_mm[axis])), float(shape[axis]))
        start = float(np.clip(np.floor((a + b - extent) / 2), 0, shape[axis] - extent))
        low.append(start)
        high.append(start + extent)
    return low, high


def _draw_boxes(
    draw: ImageDraw.ImageDraw,
    rectangles: list[tuple[_Overlay, Rectangle]],
    size: tuple[int, int],
) -> None:
    for overlay, rectangle in rectangles:
        if overlay.is_truth:
            draw.rectangle(rectangle, outline=TRUTH, width=2)
    for overlay, rectangle in rectangles:
        if not overlay.is_truth:
            dashed_rectangle(draw, rectangle, DETECTION)
    taken = [(size[0] - 120.0, size[1] - 24.0, float(size[0]), float(size[1]))]  # the scale bar
    for overlay, (left, top, right, bottom) in rectangles:
        width, height = draw.textlength(overlay.text, font(LETTERS_PX)), LETTERS_PX + 2
        above, below = (left, top - height - 1), (left, bottom + 1)
        beside = (right + 3, (top + bottom - height) / 2), (left - width - 3, (top + bottom - height) / 2)
        wanted = [above, below, *beside] if overlay.is_truth else [below, above, *beside]
        inside = [
            (float(np.clip(x, 1, max(1, size[0] - width - 1))), float(np.clip(y, 1, max(1, size[1] - height - 1))))
            for x, y in wanted
        ]
        areas = [(x, y, x + width, y + height) for x, y in inside]
        area = next((area for area in areas if not any(_overlap(area, other) for other in taken)), None)
        if area is None and not overlay.is_truth:
            continue  # a crowd of labels is unreadable; the dashed box itself stays
        area = area or areas[0]
        taken.append(area)
        outlined(draw, area[:2], overlay.text, TRUTH if overlay.is_truth else DETECTION)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
