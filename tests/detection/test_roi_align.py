"""RoIAlign in 3D against torchvision's in 2D, by hand, and under mirroring."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.detection.roi_align import grid_points, roi_align

torchvision_ops = pytest.importorskip("torchvision.ops")


def test_a_map_that_is_the_same_at_every_depth_pools_as_torchvision_pools_its_plane() -> None:
    random = torch.Generator().manual_seed(0)
    plane, shape = torch.randn(2, 3, 9, 11, generator=random), (18, 44)  # strides 2 and 4
    features = plane[:, :, None].expand(-1, -1, 5, -1, -1)
    boxes = [torch.rand(count, 6, generator=random).sort(dim=1).values for count in (4, 0, 3)][::2]
    boxes = [torch.cat([one[:, :3], one[:, 3:]], 1) * torch.tensor([15, *shape] * 2) for one in boxes]
    pooled = roi_align(features, boxes, stride=(3, 2, 4), size=4)
    rows = [torch.cat([one[:, [2]] / 4, one[:, [1]] / 2, one[:, [5]] / 4, one[:, [4]] / 2], 1) for one in boxes]  # x, y
    wanted = torchvision_ops.roi_align(plane, rows, output_size=4, sampling_ratio=2, aligned=True)
    torch.testing.assert_close(pooled, wanted[:, :, None].expand(-1, -1, 4, -1, -1))


def test_a_ramp_is_pooled_to_the_places_of_the_parts() -> None:
    ramp = torch.arange(8.0)[None, None, None, None].expand(1, 1, 8, 8, 8) + 0.5  # value: place along W
    box = torch.tensor([[2.0, 3, 1, 4, 7, 7]])
    pooled = roi_align(ramp, [box], stride=(1, 1, 1), size=3)
    torch.testing.assert_close(pooled[0, 0, 1, 2], torch.tensor([2.0, 4, 6]))
    assert grid_points(box, 2).tolist() == [[[2.5, 3.5], [4, 6], [2.5, 5.5]]]


def test_mirroring_commutes_and_images_without_a_box_are_passed_over() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 4, 6, 8, generator=random)
    boxes = torch.tensor([[1.0, 2, 3, 6, 9, 13], [0, 0, 0, 8, 12, 16]])
    pooled = roi_align(features, [boxes[:0], boxes], stride=(2, 2, 2), size=3)
    mirrored = boxes.clone()
    mirrored[:, [2, 5]] = 16 - boxes[:, [5, 2]]
    turned = roi_align(features.flip(4), [boxes[:0], mirrored], stride=(2, 2, 2), size=3)
    torch.testing.assert_close(turned.flip(4), pooled)
