from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.data.augment import IntensityAugment, Placement, SpatialAugment, place, place_boxes
from medpretrain3d.data.batches import generator_at

PATCH = (20, 24, 28)


def placement_at(position: int, **settings: object) -> Placement:
    return SpatialAugment(rotation_p=1.0, zoom_p=1.0, **settings).draw(generator_at(0, position))  # type: ignore[arg-type]


def test_a_plain_placement_reads_no_margin_and_changes_nothing():
    plain = SpatialAugment(rotation_p=0, zoom_p=0, mirror_axes=()).draw(generator_at(0, 0))
    crop = np.random.default_rng(0).random((2, *PATCH), dtype=np.float32)
    assert plain.source_size(PATCH) == PATCH
    assert np.array_equal(place(crop, plain, PATCH), crop)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_flips_move_voxels_and_boxes_alike_exactly(axes):
    placement = Placement(np.eye(3), axes)
    crop = np.zeros((1, *PATCH), dtype=np.float32)
    crop[0, 2:5, 7:9, 20:28] = 1
    box = np.array([[2.0, 7, 20, 5, 9, 28]])
    assert np.array_equal(place_boxes(box, placement, PATCH, PATCH)[0], hull(place(crop, placement, PATCH)[0]))


@given(st.integers(0, 10_000))
def test_boxes_follow_a_round_object_to_within_a_voxel(position):
    placement = placement_at(position, mirror_axes=(0, 1, 2))
    size = placement.source_size(PATCH)
    grid = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in size], indexing="ij"))
    centre, radius = np.array(size) / 2 + 0.7, 5.0
    ball = (np.square(grid - centre[:, None, None, None]).sum(0) <= radius**2).astype(np.float32)
    box = np.array([[*(centre - radius), *(centre + radius)]])
    moved = place_boxes(box, placement, PATCH, size)[0]
    seen = hull(place(ball[None], placement, PATCH, nearest=True)[0])
    inside = np.concatenate([np.maximum(moved[:3], 0), np.minimum(moved[3:], PATCH)])
    assert np.abs(inside - seen).max() <= 1.5


def test_zoom_scales_about_the_centre():
    placement = Placement(np.eye(3) / 2)  # everything twice as large
    size = placement.source_size(PATCH)
    centre = np.array(size) / 2
    box = np.array([[*(centre - 2), *(centre + 2)]])
    expected = np.concatenate([np.array(PATCH) / 2 - 4, np.array(PATCH) / 2 + 4])
    np.testing.assert_allclose(place_boxes(box, placement, PATCH, size)[0], expected)


def test_a_constant_stays_constant_and_a_ramp_stays_a_ramp():
    placement = placement_at(3, mirror_axes=())
    size = placement.source_size(PATCH)
    assert np.allclose(place(np.full((1, *size), 0.25, np.float32), placement, PATCH), 0.25)
    ramp = np.broadcast_to((np.arange(size[0]) + 0.5)[:, None, None], size).astype(np.float32)
    placed = place(ramp[None].copy(), placement, PATCH)[0]
    offset = np.stack(np.meshgrid(*[np.arange(n) + 0.5 - n / 2 for n in PATCH], indexing="ij"))
    expected = np.tensordot(placement.matrix[0], offset, axes=1) + size[0] / 2
    np.testing.assert_allclose(placed, expected, atol=1e-3)


@given(st.integers(0, 10_000))
def test_the_source_crop_covers_the_patch(position):
    placement = placement_at(position)
    corners = np.array([[d, h, w] for d in (-1, 1) for h in (-1, 1) for w in (-1, 1)]) * np.array(PATCH) / 2
    reached = np.abs(corners @ placement.matrix.T).max(0)
    assert (reached <= np.array(placement.source_size(PATCH)) / 2).all()


def test_intensity_changes_are_repeatable_and_leave_the_input_alone():
    image = np.random.default_rng(0).random((1, 8, 8, 8), dtype=np.float32) * 2 - 1
    before = image.copy()
    always = IntensityAugment(1, 1, 1, 1, 1, 1)
    first, second = always(image, generator_at(0, 5)), always(image, generator_at(0, 5))
    assert np.array_equal(first, second)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(image, before)
    assert not np.array_equal(first, image)
    assert np.array_equal(IntensityAugment(0, 0, 0, 0, 0, 0)(image, generator_at(0, 5)), image)


def test_gamma_keeps_a_constant_image():
    flat = np.full((1, 4, 4, 4), 0.5, np.float32)
    np.testing.assert_allclose(IntensityAugment(0, 0, 0, 0, 1, 1)(flat, generator_at(0, 1)), flat, atol=1e-6)


def hull(mask: np.ndarray) -> np.ndarray:
    index = np.argwhere(mask > 0.5)
    return np.concatenate([index.min(0), index.max(0) + 1]).astype(float)
