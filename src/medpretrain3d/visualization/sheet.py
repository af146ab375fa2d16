"""Sheets of pictures: panels in rows of three, each with its title, and a legend below."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from medpretrain3d.visualization.drawing import BACKGROUND, DETECTION, TEXT, TRUTH, Rgb, font


def sheet_of(panels: list[tuple[str, Image.Image]], solid: str, dashed: str) -> Rgb:
    """Return a picture (H, W, 3) of all panels.

    Args:
        panels: title and picture of each.
        solid: what solid lines are, in the color of the truth.
        dashed: what dashed ones are, in that of detections; empty where there are none.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    gap, header, footer = 6, 20, 24
    cell_width = max(panel.width for _, panel in panels) + gap
    heights = [max(panel.height for _, panel in panels[row * columns : (row + 1) * columns]) for row in range(rows)]
    size = (columns * cell_width + gap, sum(heights) + rows * (header + gap) + footer)
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for row in range(rows):
        for column, (title, panel) in enumerate(panels[row * columns : (row + 1) * columns]):
            left = gap + column * cell_width + (cell_width - gap - panel.width) // 2
            draw.text((left + 2, top + header / 2), title, TEXT, font(12), anchor="lm")
            canvas.paste(panel, (left, top + header))
        top += heights[row] + header + gap
    y = top + footer / 2 - gap / 2
    draw.text((gap + 2, y), solid, TRUTH, font(12), anchor="lm")
    draw.text((gap + 22 + draw.textlength(solid, font(12)), y), dashed, DETECTION, font(12), anchor="lm")
    return np.asarray(canvas)
