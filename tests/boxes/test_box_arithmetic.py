from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import box_center, box_size, box_volume, clip_boxes, corners_of, has_extent

BOXES = [[0, 0, 0, 4, 2, 1], [1, 2, 3, 2, 5, 9], [5, 0, 0, 5, 1, 1]]
CENTERS = [[2, 1, 0.5], [1.5, 3.5, 6], [5, 0.5, 0.5]]
SIZES = [[4, 2, 1], [1, 3, 6], [0, 1, 1]]


@pytest.mark.parametrize("kind", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_centers_sizes_and_extents_by_hand_of_arrays_of_either_library(kind):
    boxes = kind(BOXES)
    assert type(box_center(boxes)) is type(boxes)
    assert box_center(boxes).tolist() == CENTERS
    assert box_size(boxes).tolist() == SIZES
    assert has_extent(boxes).tolist() == [True, True, False]
    assert box_center(boxes[0]).tolist() == CENTERS[0]  # one box
    assert box_center(boxes[:, None]).shape == (3, 1, 3)  # boxes along further axes
    assert box_size(boxes[:0]).shape == (0, 3)


def test_volumes_are_the_product_of_the_sizes():
    assert box_volume(torch.tensor(BOXES)).tolist() == [8, 18, 0]


def test_corners_come_back_from_center_and_size():
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    assert corners_of(box_center(boxes), box_size(boxes)).equal(boxes)


def test_a_swapped_pair_or_a_corner_that_is_no_number_has_no_extent():
    boxes = torch.tensor([[3.0, 0, 0, 1, 2, 2], [0, 0, 0, 1, 1, torch.nan]])
    assert box_size(boxes)[0].tolist() == [-2, 2, 2]
    assert has_extent(boxes).tolist() == [False, False]


def test_double_precision_stays():
    boxes = torch.tensor([[1500, 0, 0, 1500 + 1e-6, 1, 1]], dtype=torch.float64)
    assert box_center(boxes)[0, 0].item() - 1500 == pytest.approx(5e-7, rel=1e-5)
    assert box_size(boxes)[0, 0].item() == pytest.approx(1e-6, rel=1e-5)


def test_a_box_outside_of_the_volume_is_clipped_to_nothing():
    assert has_extent(clip_boxes(torch.tensor([[9.0, 0, 0, 12, 1, 1]]), (8, 8, 8))).tolist() == [False]
