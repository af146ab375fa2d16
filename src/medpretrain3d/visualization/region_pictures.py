"""Objects of many kinds on slices of scans: one row a scan, a color a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medpretrain3d.visualization.box_pictures import Volume, covering_slices
from medpretrain3d.visualization.drawing import BACKGROUND, LABELS, TEXT, VIEWS, Rgb, colored, cut_slices, font, grey

CUTS = (0, 0, 0, 1, 2)
"""Axes that the panels of a row cut."""


@dataclass(frozen=True, eq=False)
class ScanRow:
    """A scan and what is in it."""

    title: str
    image: Volume
    """(D, H, W) in [-1, 1]."""
    spacing_mm: Sequence[float]
    label_map: NDArray[np.int64]
    """(D, H, W), kind + 1, 0 for none."""
    boxes: NDArray[np.float32]
    """(N, 6) in voxels."""
    labels: NDArray[np.int64]
    """(N,) kinds from 0."""


def region_sheet(rows: Sequence[ScanRow], kinds: Sequence[str], panel_px: int = 260) -> Rgb:
    """Return slices that cut as many objects as possible, three axial ones, a coronal and a sagittal one.

    Args:
        rows: scans, one below the other.
        kinds: names, in the order of the labels.
        panel_px: pixels of a panel's edge.
    """
    gap, header = 6, 22
    width, height = len(CUTS) * (panel_px + gap) + gap, header + len(rows) * (panel_px + header + gap)
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left = float(gap)
    for number, kind in enumerate(kinds):
        draw.text((left, header / 2), kind, _color(number), font(14), anchor="lm")
        left += draw.textlength(kind, font(14)) + 24
    for place, row in enumerate(rows):
        top = header + place * (panel_px + header + gap)
        draw.text((gap, top + header / 2), row.title, TEXT, font(12), anchor="lm")
        axial = sorted(covering_slices(row.boxes, 0, row.image.shape[0], CUTS.count(0)), reverse=True)
        indices = [(0, index) for index in axial]
        indices += [(axis, covering_slices(row.boxes, axis, row.image.shape[axis], 1)[0]) for axis in (1, 2)]
        for column, (axis, index) in enumerate(indices):
            panel = _panel(row, axis, index, panel_px)
            at = gap + column * (panel_px + gap) + (panel_px - panel.width) // 2
            canvas.paste(panel, (at, top + header + (panel_px - panel.height) // 2))
    return np.asarray(canvas)


def _panel(row: ScanRow, axis: int, index: int, panel_px: int) -> Image.Image:
    rows, columns = (edge for edge in range(3) if edge != axis)
    picture = colored(np.take(row.label_map, index, axis=axis), grey(np.take(row.image, index, axis=axis)))
    size_mm = [row.image.shape[edge] * row.spacing_mm[edge] for edge in (rows, columns)]
    px_per_mm = panel_px / max(size_mm)
    size = max(1, round(size_mm[1] * px_per_mm)), max(1, round(size_mm[0] * px_per_mm))
    panel = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    if axis != 0:  # D grows upwards in the patient, rows grow downwards in the picture
        panel = panel.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    draw = ImageDraw.Draw(panel)
    for box, label in zip(row.boxes, row.labels, strict=True):
        first, stop = cut_slices(box[axis], box[axis + 3])
        if first <= index < stop:
            top, bottom = (float(box[rows + side]) * row.spacing_mm[rows] * px_per_mm for side in (0, 3))
            left, right = (float(box[columns + side]) * row.spacing_mm[columns] * px_per_mm for side in (0, 3))
            if axis != 0:
                top, bottom = size[1] - bottom, size[1] - top
            draw.rectangle((left, top, right, bottom), outline=_color(int(label)), width=1)
    draw.text((4, 3), f"{VIEWS[axis]} {index}", TEXT, font(12), stroke_width=2, stroke_fill=(0, 0, 0))
    return panel


def _color(label: int) -> tuple[int, int, int]:
    red, green, blue = LABELS[label % len(LABELS)].tolist()
    return red, green, blue
