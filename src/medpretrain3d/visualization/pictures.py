"""Pictures of volumes: what was hidden and restored, and what was found where.

Arrays in, `(H, W, 3)` uint8 arrays out. Volumes are (D, H, W) in [-1, 1] and canonical: D grows to superior, H to
posterior, W to the patient's left. Shown the radiologist's way: anterior or superior on top, the patient's right on the
left of the picture; sagittal slices look to the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medpretrain3d.atomic import finished_file
from medpretrain3d.visualization.box_pictures import boxes_on_slices
from medpretrain3d.visualization.drawing import BACKGROUND, TEXT, VIEWS, Rgb, colored, font, grey, heat, upright

__all__ = ["boxes_on_slices", "save_png", "volume_strip"]

Volume = NDArray[Any]


def volume_strip(volumes: Mapping[str, Volume], max_error: float = 0.5, panel_px: int = 192) -> Rgb:
    """Three rows (axial, coronal, sagittal), a column for each volume, and the error where an input was restored.

    Every row cuts the first volume where it has most contrast, within the middle half; so the same crop shows the same
    slices at every step of a run, and errors have the same colours.

    Args:
        volumes: (D, H, W) by their titles, all of one size. Floating point is shown in grey from -1 to 1; integers are
            labels, shown in colours over the first volume, 0 for none. `input` and `restored` are compared.
        max_error: the error that gets the brightest colour.
        panel_px: pixels of a panel's longer edge, at least; small crops are enlarged by whole numbers.
    """
    titles = list(volumes)
    first = volumes[titles[0]]
    is_restored = {"input", "restored"} <= volumes.keys()
    zoom = max(1, -(-panel_px // max(first.shape)))
    rows = []
    for axis in range(3):
        index = _contrast_slice(first, axis)
        planes = {title: _slice(volume, axis, index) for title, volume in volumes.items()}
        behind = grey(planes[titles[0]])
        panels = [
            colored(plane, behind) if np.issubdtype(plane.dtype, np.integer) else grey(plane)
            for plane in planes.values()
        ]
        if is_restored:
            panels.append(heat(np.abs(planes["restored"].astype(np.float64) - planes["input"]) / max_error))
        rows.append([panel.repeat(zoom, axis=0).repeat(zoom, axis=1) for panel in panels])
    if is_restored:
        titles.append(f"|error|, 0 to {max_error:g}")
    gap, header, margin = 4, 22, 22
    width = max(panel.shape[1] for row in rows for panel in row)
    heights = [row[0].shape[0] for row in rows]
    canvas = Image.new("RGB", (margin + len(titles) * (width + gap), header + sum(heights) + 3 * gap), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((margin + column * (width + gap) + width / 2, header / 2), title, TEXT, font(12), anchor="mm")
    top = header
    for view, row, row_height in zip(VIEWS, rows, heights, strict=True):
        canvas.paste(upright(view), (3, top + row_height // 2 - 30))
        for column, panel in enumerate(row):
            left = margin + column * (width + gap) + (width - panel.shape[1]) // 2
            canvas.paste(Image.fromarray(panel), (left, top))
        top += row_height + gap
    return np.asarray(canvas)


def save_png(path: Path, rgb: Rgb) -> None:
    """Write a picture (H, W, 3) completely or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with finished_file(Path(path)) as unfinished:
        # Pillow's `optimize` takes four times as long for 7 % less.
        Image.fromarray(np.ascontiguousarray(rgb)).save(unfinished, format="PNG")


def _contrast_slice(image: Volume, axis: int) -> int:
    size = image.shape[axis]
    middle = range(size // 4, max(size // 4 + 1, size - size // 4))
    return max(middle, key=lambda index: float(np.take(image, index, axis=axis).std()))


def _slice(volume: Volume, axis: int, index: int) -> Volume:
    plane = np.take(volume, index, axis=axis)
    result: Volume = plane if axis == 0 else plane[::-1]
    return result
