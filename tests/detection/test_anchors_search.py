from __future__ import annotations

import pytest
import torch

from medpretrain3d.detection.anchors_search import concentric_iou, optimize_anchor_sizes
from medpretrain3d.errors import UserError

STRIDES = [(4, 4, 4), (8, 8, 8)]


def test_concentric_iou_of_a_cube_in_a_cube_twice_as_long():
    assert concentric_iou(torch.tensor([[2.0, 2, 2]]), torch.tensor([[4.0, 4, 4]])).item() == 1 / 8


def test_as_many_kinds_of_objects_as_anchors_are_all_met():
    extents = torch.tensor([[6.0, 6, 6], [8, 8, 8], [16, 16, 16], [12, 20, 16]]).repeat(5, 1)
    choice = optimize_anchor_sizes(extents, STRIDES, anchors_per_level=2)
    assert choice.sizes == (((6, 6, 6), (8, 8, 8)), ((12, 20, 16), (16, 16, 16)))
    assert choice.mean_best_iou == 1
    assert choice.objects_per_level == (10, 10)


def test_a_level_without_objects_takes_scaled_sizes():
    choice = optimize_anchor_sizes(torch.tensor([[8.0, 8, 8]]), STRIDES, anchors_per_level=1)
    assert choice.sizes == (((8, 8, 8),), ((16, 16, 16),))
    assert choice.objects_per_level == (1, 0)


def test_more_anchors_than_kinds_are_filled_with_other_sizes():
    sizes = optimize_anchor_sizes(torch.tensor([[10.0, 10, 10]]), STRIDES[:1], anchors_per_level=4).sizes[0]
    assert len(set(sizes)) == 4
    assert (10, 10, 10) in sizes


def test_order_does_not_matter_and_more_anchors_do_better_than_the_mean_object():
    generator = torch.Generator().manual_seed(0)
    extents = (torch.randn(300, 3, generator=generator) * 0.4 + 2.3).exp()
    choice = optimize_anchor_sizes(extents, STRIDES, anchors_per_level=3)
    assert choice == optimize_anchor_sizes(extents.flip(0), STRIDES, anchors_per_level=3)
    of_the_mean = concentric_iou(extents, extents.mean(dim=0, keepdim=True)).mean()
    of_one = optimize_anchor_sizes(extents, STRIDES, anchors_per_level=1).mean_best_iou
    assert of_the_mean < of_one < choice.mean_best_iou
    assert choice.worst_tenth_iou < choice.mean_best_iou
    assert choice.grid().sizes == choice.sizes


@pytest.mark.parametrize("extents", [torch.zeros(0, 3), torch.tensor([[1.0, 0, 1]]), torch.ones(3)])
def test_no_usable_objects_are_refused(extents):
    with pytest.raises(UserError, match="object extents"):
        optimize_anchor_sizes(extents, STRIDES)


def test_no_two_anchors_of_a_level_are_equal():
    cube, pair = [1.0, 1, 1], [1.0, 1, 2]
    for extents in (
        [cube] * 5,
        [cube] * 3 + [pair] * 2,
        [[8.0, 8, 8]],
        [[0.1, 0.1, 0.1]],
        [[10.0, 10, 10], [12.6] * 3],
    ):
        choice = optimize_anchor_sizes(torch.tensor(extents), [(1, 1, 1), (2, 2, 2), (4, 4, 4)], 9)
        for level in choice.sizes:
            assert len(set(level)) == 9, extents
            assert min(min(size) for size in level) >= 0.1
        assert all(tuple(extent) in {size for level in choice.sizes for size in level} for extent in extents[:1])


def test_levels_of_one_stride_share_no_anchor():
    """As where a scan is too small to be halved once more."""
    choice = optimize_anchor_sizes(torch.tensor([[8.0, 8, 8]]), [(2, 2, 2), (2, 2, 2)], 9)
    assert len({size for level in choice.sizes for size in level}) == 18
