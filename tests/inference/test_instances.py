from __future__ import annotations

import numpy as np
import torch

from medpretrain3d.inference.instances import instance_map, segment_volume, to_file_order
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.store.grid import Grid

SHAPE, PATCH = (20, 13, 9), (8, 8, 8)


def scene(*blobs):
    """Blobs `(box, brightness)` on a dark ground that is not quite constant, so that no tile is empty."""
    image = torch.full((1, *SHAPE), -1.0)
    image[0, ::2] = -0.9
    for (d0, h0, w0, d1, h1, w1), brightness in blobs:
        image[0, d0:d1, h0:h1, w0:w1] = brightness
    return TensorTiles(image, -1.0)


def everywhere():
    return np.array([[0.0, 0, 0, *SHAPE]])


def test_tiles_together_say_what_a_voxelwise_segmentation_says(blob_segmenter):
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    classes, num_classes = segment_volume(blob_segmenter, TensorTiles(image, -1.0), everywhere(), PATCH, 0.5)
    assert num_classes == 2
    np.testing.assert_array_equal(classes, blob_segmenter.segment(image[None])[0].argmax(dim=0).numpy())


def test_only_tiles_that_meet_a_box_are_run(blob_segmenter, monkeypatch):
    seen = []
    segment = blob_segmenter.segment
    monkeypatch.setattr(blob_segmenter, "segment", lambda image: seen.append(image) or segment(image))
    tiles = scene(((1, 1, 1, 3, 3, 3), 0.5), ((17, 9, 5, 19, 11, 7), 0.5))
    box = np.array([[17.0, 9, 5, 19, 11, 7]])
    classes, _ = segment_volume(blob_segmenter, tiles, box, PATCH, 0.0)
    assert len(seen) == 2  # of twelve: the box lies in both tiles along W
    assert (classes > 0).sum() == 8
    assert classes[1:3].max() == 0


def test_an_object_is_the_largest_component_of_its_class_in_its_box(blob_segmenter):
    small, large, other = (2, 2, 2, 3, 3, 3), (5, 2, 2, 8, 4, 4), (9, 2, 2, 11, 6, 6)
    tiles = scene((small, 0.5), (large, 0.5), (other, 0.9))
    instances = instance_map(blob_segmenter, tiles, np.array([[1.5, 1, 1, 11, 7, 7]]), np.array([0]), PATCH, 0.5)
    expected = np.zeros(SHAPE, np.uint16)
    expected[5:8, 2:4, 2:4] = 1
    np.testing.assert_array_equal(instances, expected)


def test_voxels_of_two_boxes_go_to_the_first_and_a_box_may_stay_empty(blob_segmenter):
    tiles = scene(((2, 2, 2, 8, 4, 4), 0.5))
    boxes = np.array([[2.0, 2, 2, 5, 4, 4], [2, 2, 2, 8, 4, 4], [12, 2, 2, 15, 4, 4]])
    instances = instance_map(blob_segmenter, tiles, boxes, np.array([0, 0, 0]), PATCH, 0.5)
    expected = np.zeros(SHAPE, np.uint16)
    expected[2:5, 2:4, 2:4], expected[5:8, 2:4, 2:4] = 1, 2
    np.testing.assert_array_equal(instances, expected)


def test_a_segmentation_of_foreground_alone_serves_every_class(blob_segmenter, monkeypatch):
    monkeypatch.setattr(
        blob_segmenter, "segment", lambda image: torch.cat([(image <= 0).float(), (image > 0).float()], dim=1)
    )
    tiles = scene(((2, 2, 2, 5, 4, 4), 0.5), ((9, 2, 2, 12, 4, 4), 0.5))
    boxes = np.array([[2.0, 2, 2, 5, 4, 4], [9, 2, 2, 12, 4, 4]])
    instances = instance_map(blob_segmenter, tiles, boxes, np.array([1, 0]), PATCH, 0.5)
    assert np.unique(instances[2:5, 2:4, 2:4]).tolist() == [1]
    assert np.unique(instances[9:12, 2:4, 2:4]).tolist() == [2]
    assert (instances > 0).sum() == 24


def test_masks_of_a_store_that_lies_otherwise_than_its_file_is_read_now_are_in_their_place():
    """At 45 degrees either of two frames is as near."""
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2) * (0.7, 0.8)
    source_grid = Grid((4, 5, 6), affine)
    instances = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    for order in ((2, 1, 0), (2, 0, 1)):
        index = np.eye(4)[:, [*order, 3]]
        grid = Grid(np.array(source_grid.shape)[list(order)].tolist(), affine @ index)
        np.testing.assert_array_equal(to_file_order(instances.transpose(order), grid, source_grid), instances)
