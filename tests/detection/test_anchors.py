from __future__ import annotations

import pytest
import torch

from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.errors import UserError


def test_anchors_written_out():
    grid = AnchorGrid([[(4, 4, 4), (2, 4, 8)], [(8, 8, 8), (4, 8, 16)]])
    anchors = grid([(1, 1, 2), (1, 1, 1)], [(2, 4, 4), (2, 4, 8)], "cpu")
    # Cell centres: (1, 2, 2) and (1, 2, 6) on the fine level, (1, 2, 4) on the coarse one.
    expected = [
        [-1, 0, 0, 3, 4, 4],
        [0, 0, -2, 2, 4, 6],
        [-1, 0, 4, 3, 4, 8],
        [0, 0, 2, 2, 4, 10],
        [-3, -2, 0, 5, 6, 8],
        [-1, -2, -4, 3, 6, 12],
    ]
    assert anchors.tolist() == expected
    assert grid.per_level([(1, 1, 2), (1, 1, 1)]) == [4, 2]


def test_anchors_stay_float32_and_follow_the_shape():
    grid = AnchorGrid([[(3, 3, 3)]])
    with torch.autocast("cpu", torch.bfloat16):
        anchors = grid([(100, 1, 1)], [(3, 3, 3)], "cpu")
    assert anchors.dtype == torch.float32
    assert anchors[-1].tolist() == [297, 0, 0, 300, 3, 3]
    assert len(grid([(2, 2, 2)], [(3, 3, 3)], "cpu")) == 8


def test_combinations_are_27_anchors_that_grow_with_the_stride():
    grid = AnchorGrid.combinations([(4, 6, 9), (4, 6, 9), (8, 12, 18)], [(2, 2, 4), (2, 4, 8)])
    assert grid.per_cell == 27
    assert grid.sizes[0][0] == (4, 4, 8)
    assert grid.sizes[0][26] == (9, 9, 18)
    assert grid.sizes[1][0] == (4, 8, 16)  # D keeps its stride


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], "at least one level"),
        ([[(1, 1, 1)], [(1, 1, 1), (2, 2, 2)]], r"\[1, 2\] anchors per level"),
        ([[(1, 0, 1)]], "three positive extents"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        AnchorGrid(sizes)
