"""Drawing helpers of all pictures: colors, gray levels, heat colors, letters."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medpretrain3d.store.points import are_points

Rgb = NDArray[np.uint8]
Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

# Blue and orange stay apart for every kind of colour blindness (Okabe and Ito, 2008); dashes survive a grey print.
TRUTH: Color = (86, 180, 233)
DETECTION: Color = (255, 170, 40)
BACKGROUND: Color = (17, 19, 22)
TEXT: Color = (225, 228, 232)
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)
# Okabe and Ito's colours without black: seven neighbouring labels are told apart.
LABELS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)]
)
LETTERS_PX = 13  # still read at half size, two pictures side by side on a page
POINT_VOX = 6.0
"""Edge of the cube that is drawn for an object without a size."""
VIEWS = ("axial", "coronal", "sagittal")  # in the order of the axis they cut: D, H, W


def grey(plane: NDArray[Any]) -> Rgb:
    """Grey levels (H, W, 3) of values in [-1, 1]; what lies outside is cut off."""
    level = np.nan_to_num((plane.astype(np.float64) + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=2)


def colored(labels: NDArray[Any], behind: Rgb) -> Rgb:
    """Labels (H, W) as colours half transparent over a picture; 0 shows the picture alone, after seven they repeat."""
    mixed = (LABELS[(labels - 1) % len(LABELS)] + behind) // 2
    return np.where((labels > 0)[..., None], mixed, behind).astype(np.uint8)


def heat(share: NDArray[np.float64]) -> Rgb:
    """Color of values in [0, 1]: black over purple and orange to pale yellow."""
    place = np.nan_to_num(share, nan=1.0).clip(0, 1) * (len(HEAT) - 1)
    steps = np.arange(len(HEAT))
    return np.stack([np.interp(place, steps, HEAT[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


def with_seen_points(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return boxes (N, 6) in voxels, points as cubes of `POINT_VOX` voxels about them, so that they are seen."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
    half = np.repeat([-POINT_VOX / 2, POINT_VOX / 2], 3)
    return np.where(are_points(boxes)[:, None], boxes + half, boxes)


def cut_slices(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first slice that boxes cut along an axis, and the one behind the last.

    A slice is cut where its middle lies in a box. A box so thin that it holds no middle is shown on the slice that its
    own lies in: a lesion of 3 mm between the middles of slices of 5 mm would be seen on none.

    Args:
        low: first faces of the boxes in voxels.
        high: last faces, of the same shape.
    """
    first, stop, own = np.ceil(low - 0.5), np.ceil(high - 0.5), np.floor((low + high) / 2)
    is_thin = stop <= first
    return np.where(is_thin, own, first).astype(np.int64), np.where(is_thin, own + 1, stop).astype(np.int64)


@functools.cache
def font(size_px: int) -> Any:
    """Return the letters that come with Pillow."""
    return ImageFont.load_default(size_px)


def upright(text: str) -> Image.Image:
    """Return a label that reads from bottom to top."""
    label = Image.new("RGB", (60, 16), BACKGROUND)
    ImageDraw.Draw(label).text((30, 8), text, TEXT, font(12), anchor="mm")
    return label.transpose(Image.Transpose.ROTATE_90)


def outlined(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: Color, anchor: str = "la"
) -> None:
    """Letters with a black rim, readable on bone and on air."""
    draw.text(place, text, color, font(LETTERS_PX), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def dashed_rectangle(draw: ImageDraw.ImageDraw, rectangle: Rectangle, color: Color, dash_px: int = 6) -> None:
    """Draw the edges of a rectangle in dashes."""
    left, top, right, bottom = rectangle
    for y in (top, bottom):
        for x in np.arange(left, right, 2 * dash_px):
            draw.line((x, y, min(x + dash_px, right), y), fill=color, width=2)
    for x in (left, right):
        for y in np.arange(top, bottom, 2 * dash_px):
            draw.line((x, y, x, min(y + dash_px, bottom)), fill=color, width=2)


def draw_scale(draw: ImageDraw.ImageDraw, size: tuple[int, int], px_per_mm: float) -> None:
    """Draw a bar of a round length in mm into the lower right corner of a picture of a size in pixels."""
    length_mm = next((mm for mm in (100, 50, 20, 10, 5) if mm * px_per_mm < size[0] / 3), 1)
    right, bottom = size[0] - 8, size[1] - 8
    draw.line((right - length_mm * px_per_mm, bottom, right, bottom), fill=TEXT, width=2)
    outlined(draw, (right, bottom - 3), f"{length_mm} mm", TEXT, anchor="rs")
