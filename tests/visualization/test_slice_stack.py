from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpretrain3d.errors import UserError
from medpretrain3d.store.grid import Grid
from medpretrain3d.visualization.slice_stack import read_slice_index, slice_stack, write_slices

GRID = Grid((20, 10, 40), np.array([[0, 0, 1.0, 0], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]]))
BOXES = np.array([[2.0, 1, 1, 5, 4, 4], [15.0, 1, 1, 18, 4, 4]])


def test_slices_cut_the_objects_from_head_to_foot_with_square_pixels():
    image = np.full(GRID.shape, -1.0)
    image[16] = 1.0
    stack = slice_stack(image, GRID, BOXES, longest_edge_px=80)
    assert stack.indices == (16, 3)
    assert stack.pixels.shape == (2 * 40, 80)  # 20 x 40 mm, 2 pixels a mm
    assert (stack.pixels[:40] == 255).all()
    assert (stack.pixels[40:] == 0).all()


def test_slices_are_the_same_whatever_was_found_and_the_middle_one_without_objects():
    assert slice_stack(np.zeros(GRID.shape), GRID, np.zeros((0, 6))).indices == (10,)


def test_what_is_written_is_read(tmp_path: Path):
    stack = slice_stack(np.zeros(GRID.shape), GRID, BOXES)
    write_slices(tmp_path / "slices", {"a": stack})
    assert read_slice_index(tmp_path / "slices") == {"a": (GRID, stack.indices)}
    assert (np.asarray(Image.open(tmp_path / "slices" / "a.png")) == stack.pixels).all()
    assert read_slice_index(tmp_path / "nowhere") == {}
    (tmp_path / "slices" / "slices.json").write_text("{}")
    with pytest.raises(UserError, match=r"slices\.json.*medpretrain3d-slices"):
        read_slice_index(tmp_path / "slices")
