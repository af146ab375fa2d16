from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medpretrain3d.detection import FCOS, DeformableDETR, RetinaNet, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.inference.sliding_window import detect_tiles, detect_volume
from medpretrain3d.inference.tiles import tile_starts
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_detectors import tiny_detector

ALL_MIRRORS = (0, 1, 2)


def empty_volume(shape, channels=1):
    return torch.full((channels, *shape), -1.0)


def put(image, box, brightness=0.5):
    d0, h0, w0, d1, h1, w1 = box
    image[0, d0:d1, h0:h1, w0:w1] = brightness


def volume_with_blobs():
    """Blobs that lie across tile borders of a patch of 16, in corners and on faces of the volume, of two classes."""
    image = empty_volume((40, 33, 25))
    boxes = [
        (0, 0, 0, 3, 2, 4),
        (36, 30, 20, 40, 33, 25),
        (10, 12, 5, 17, 18, 12),
        (22, 5, 14, 27, 13, 21),
        (13, 22, 6, 21, 30, 14),
    ]
    brightness = [0.3, 0.9, 0.5, 0.8, 0.6]
    for box, value in zip(boxes, brightness, strict=True):
        put(image, box, value)
    return image, boxes, brightness


def as_set(detections):
    return {
        (tuple(box.tolist()), round(float(score), 5), int(label))
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True)
    }


@pytest.mark.parametrize("merge", ["nms", "wbc"])
@pytest.mark.parametrize("mirror_axes", [(), (2,), ALL_MIRRORS])
def test_tiles_find_the_very_boxes_that_lie_in_the_volume(blob_finder, merge, mirror_axes):
    image, boxes, brightness = volume_with_blobs()
    config = InferenceConfig(merge=merge, mirror_axes=mirror_axes, score_threshold=0.0)
    found = detect_volume(blob_finder, image, (16, 16, 16), config, batch_size=3)
    assert sorted(found.boxes.round().int().tolist()) == sorted(map(list, boxes))
    torch.testing.assert_close(found.boxes, found.boxes.round(), atol=1e-4, rtol=0)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    by_box = dict(zip(boxes, brightness, strict=True))
    for box, label in zip(found.boxes.round().int().tolist(), found.labels.tolist(), strict=True):
        assert label == int(by_box[tuple(box)] > 0.75)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_of_no_tile_is_refused(blob_finder, batch_size):
    with pytest.raises(UserError, match="detect_tiles: got batch_size"):
        detect_volume(blob_finder, volume_with_blobs()[0], (16, 16, 16), InferenceConfig(), batch_size)


def test_tiles_and_the_whole_volume_at_once_agree(blob_finder):
    image, _, _ = volume_with_blobs()
    whole = detect_volume(blob_finder, image, (40, 33, 25))
    assert blob_finder.num_images == 1
    in_tiles = detect_volume(blob_finder, image, (16, 16, 16))
    assert as_set(in_tiles) == as_set(whole)
    assert len(whole) == 5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_blob_up_to_half_a_patch_is_found_once_wherever_it_lies(blob_finder, data):
    image = empty_volume((30, 21, 17))
    low = [data.draw(st.integers(0, size - 1)) for size in image.shape[1:]]
    # A tile sees an object whole if a voxel of background is left on either side, hence 8 - 1.
    high = [min(size, first + data.draw(st.integers(1, 7))) for first, size in zip(low, image.shape[1:], strict=True)]
    put(image, (*low, *high))
    found = detect_volume(blob_finder, image, (16, 16, 16), InferenceConfig(mirror_axes=(0, 2)))
    assert found.boxes.tolist() == [[*low, *high]]


def test_mirrored_views_change_nothing_for_an_exact_detector(blob_finder):
    image, _, _ = volume_with_blobs()
    plain = detect_volume(blob_finder, image, (16, 16, 16))
    mirrored = detect_volume(blob_finder, image, (16, 16, 16), InferenceConfig(mirror_axes=ALL_MIRRORS))
    assert as_set(plain) == as_set(mirrored)


def test_every_mirrored_view_is_run(blob_finder):
    image = empty_volume((8, 8, 8))
    put(image, (1, 2, 3, 4, 5, 6))
    detect_volume(blob_finder, image, (8, 8, 8), InferenceConfig(mirror_axes=ALL_MIRRORS))
    assert blob_finder.num_images == 8


def test_a_volume_smaller_than_the_patch_is_padded_behind_its_content(blob_finder):
    image = empty_volume((5, 20, 6))
    put(image, (2, 9, 3, 5, 14, 6))  # touches the ends of the volume along D and W
    found = detect_volume(blob_finder, image, (16, 16, 16), InferenceConfig(mirror_axes=(0,)))
    assert found.boxes.tolist() == [[2, 9, 3, 5, 14, 6]]


def test_boxes_that_reach_into_the_padding_end_where_the_volume_does(blob_finder):
    image = empty_volume((8, 8, 6))
    put(image, (2, 2, 2, 5, 5, 6))
    # Padding as bright as the object: they are one blob, (0, 0, 2) .. (8, 8, 16) in the tile.
    found = detect_volume(blob_finder, image, (8, 8, 16), pad_value=0.5)
    assert found.boxes.tolist() == [[0, 0, 2, 8, 8, 6]]


def test_boxes_wholly_in_the_padding_are_dropped(blob_finder):
    image = empty_volume((8, 8, 6))
    image[0, 0, 0, 0] = -0.5
    assert len(detect_volume(blob_finder, image, (8, 8, 16), pad_value=0.5)) == 0
    assert blob_finder.num_images == 1


def test_only_constant_tiles_are_skipped(blob_finder):
    image = empty_volume((8, 8, 32))
    put(image, (0, 0, 2, 1, 1, 3))
    config = InferenceConfig(overlap=0.0)
    assert len(detect_volume(blob_finder, image, (8, 8, 8), config)) == 1
    assert blob_finder.num_images == 1
    image[0, 0, 0, 31] = -0.9  # dark, and yet not constant
    detect_volume(blob_finder, image, (8, 8, 8), config)
    assert blob_finder.num_images == 1 + 2


def test_a_second_channel_keeps_a_tile(blob_finder):
    image = empty_volume((8, 8, 8), channels=2)
    image[1, 4, 4, 4] = 1.0
    detect_volume(blob_finder, image, (8, 8, 8))
    assert blob_finder.num_images == 1


def test_a_constant_volume_has_no_detections(blob_finder):
    found = detect_volume(blob_finder, empty_volume((20, 20, 20)), (8, 8, 8))
    assert len(found) == 0
    assert found.boxes.shape == (0, 6)
    assert blob_finder.num_images == 0


def test_progress_ends_at_the_number_of_tiles(blob_finder):
    image, _, _ = volume_with_blobs()
    told = []
    detect_volume(blob_finder, image, (16, 16, 16), progress=lambda done, total: told.append((done, total)))
    num_tiles = len(tile_starts((40, 33, 25), (16, 16, 16)))
    assert told[-1] == (num_tiles, num_tiles)
    assert told == sorted(told)


def test_scores_below_the_threshold_are_left_out(blob_finder):
    image, _, brightness = volume_with_blobs()
    found = detect_volume(blob_finder, image, (16, 16, 16), InferenceConfig(score_threshold=0.55))
    assert found.scores.tolist() == pytest.approx(sorted((value for value in brightness if value > 0.55), reverse=True))


def test_score_of_clusters_counts_views_that_saw_nothing(blob_finder):
    class SeesHalf(type(blob_finder)):
        def detect(self, image):
            return [found[:0] if index % 2 else found for index, found in enumerate(super().detect(image))]

    image = empty_volume((8, 8, 8))
    put(image, (1, 1, 1, 4, 4, 4), 0.5)
    config = InferenceConfig(merge="wbc", mirror_axes=(0,))
    found = detect_volume(SeesHalf(), image, (8, 8, 8), config, batch_size=2)
    assert found.scores.tolist() == pytest.approx([0.25])


@pytest.mark.parametrize("cls", [RetinaNet, RetinaUNet, FCOS, DeformableDETR])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_host_waits_once_for_a_batch_of_tiles(cls, batch_size):
    image = torch.rand(1, 24, 16, 96, generator=torch.Generator().manual_seed(0))
    patch = (24, 16, 32)
    config = InferenceConfig(overlap=0.0, score_threshold=0.0)

    def found(model):
        return detect_tiles(model, TensorTiles(image, 0.0), patch, config, batch_size, precision="32-true")

    with CountingDevice() as device:
        model = tiny_detector(cls).eval().to(DEVICE)
        found(model)  # which makes the anchors
        device.reset()
        on_device = found(model)
        assert len(device.waits) <= 3 // batch_size, device.summary
    on_cpu = found(tiny_detector(cls).eval())
    assert len(on_cpu) == len(on_device) > 10
    torch.testing.assert_close(on_device.detections.scores, on_cpu.detections.scores, atol=1e-5, rtol=1e-4)
    # the two add in another order, and detections whose scores agree to rounding may change places
    apart = torch.cdist(on_device.detections.boxes.double(), on_cpu.detections.boxes.double()).amin(1)
    assert float(apart.max()) < 1e-2
