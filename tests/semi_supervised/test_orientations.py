"""Mirroring and turning a crop maps its anchors one to one, and the network agrees."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.boxes import box_center, box_size
from medpretrain3d.detection import AnchorGrid, PointGrid
from medpretrain3d.errors import UserError
from medpretrain3d.semi_supervised.orientations import Orientation, orientations, turned_boxes

SHAPES, STRIDES = [(4, 4, 4), (2, 2, 2)], [(4, 4, 4), (8, 8, 8)]
EDGE = 16
GRIDS = {
    "anchors": AnchorGrid([[(4, 4, 4), (4, 6, 8), (4, 8, 6)], [(8, 8, 8), (8, 12, 16), (8, 16, 12)]]),
    "points": PointGrid(2),
}


def test_the_ways_to_lay_a_crop_are_counted_and_begin_with_the_crop_as_it_is():
    counts = {
        (axes, turns): len(orientations(axes, turns)) for axes in ((), (0,), (0, 1, 2)) for turns in (False, True)
    }
    assert counts == {
        ((), False): 1,
        ((), True): 4,
        ((0,), False): 2,
        ((0,), True): 8,
        ((0, 1, 2), False): 8,
        ((0, 1, 2), True): 16,
    }
    assert orientations((1, 2), True)[0] == Orientation()


@pytest.mark.parametrize("name", GRIDS)
def test_each_anchor_is_carried_to_one_anchor_and_none_is_left_over(name):
    grid = GRIDS[name]
    boxes = grid(SHAPES, STRIDES, "cpu")
    numbers = torch.arange(len(boxes))[:, None]
    place = torch.stack(torch.meshgrid(*[torch.arange(EDGE) + 0.5] * 3, indexing="ij"))  # of each voxel, (3, D, H, W)
    for way in orientations((0, 1, 2), turns=True):
        back = way.of_anchors(numbers, grid, SHAPES, STRIDES)
        assert torch.equal(back.sort(dim=0).values, numbers)
        carried = boxes[back[:, 0]]
        # What is seen at the center of the carried anchor was at the center of the anchor; centers lie between voxels.
        low, high = (box_center(carried) - 0.5).floor().long().T, (box_center(carried) - 0.5).ceil().long().T
        seen = way.of_image(place)
        assert torch.equal(((seen[:, *low] + seen[:, *high]) / 2).T, box_center(boxes))
        size = box_size(boxes)
        assert torch.equal(box_size(carried), size if way.quarter_turns % 2 == 0 else size[:, [0, 2, 1]])


def test_values_come_back_where_they_were():
    grid = GRIDS["anchors"]
    values = torch.rand(len(grid(SHAPES, STRIDES, "cpu")), 2)
    for way in orientations((0, 1, 2), turns=True):
        back = way.of_anchors(torch.arange(len(values))[:, None], grid, SHAPES, STRIDES)[:, 0]
        seen = torch.empty_like(values)
        seen[back] = values  # anchor a of the crop is anchor back[a] of the turned one
        assert torch.equal(way.of_anchors(seen, grid, SHAPES, STRIDES), values)


@pytest.mark.parametrize("sizes", [[(4, 6, 8)], [(4, 6, 8), (4, 6, 8), (4, 8, 6)]])
def test_anchors_that_have_no_partner_cannot_be_turned(sizes):
    with pytest.raises(UserError, match=r"turns: the anchors .* of level 0 .* set turns to false"):
        turned_boxes(AnchorGrid([sizes]), 0, (4, 4, 4))
    with pytest.raises(UserError, match=r"turns: .* strides \(4, 4, 8\)"):
        turned_boxes(AnchorGrid([[(4, 4, 4)]]), 0, (4, 4, 8))


def test_of_anchors_of_one_size_each_has_a_partner():
    assert turned_boxes(AnchorGrid([[(4, 6, 8), (4, 8, 6), (4, 6, 8), (4, 8, 6)]]), 0, (4, 4, 4)).tolist() == [
        1,
        0,
        3,
        2,
    ]
