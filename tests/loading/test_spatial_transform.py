from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.errors import UserError
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.spatial_transform import (
    IDENTITY,
    SpatialTransform,
    apply_transform,
    place_boxes,
    place_on_device,
)

PATCH = (20, 24, 28)
FLIPS = list(product(*[(0, 1)] * 3))


def placement_at(position: int, spacing_mm=(1, 1, 1), **options: object) -> SpatialTransform:
    always = {"rotation_p": 1.0, "zoom_p": 1.0, **options}
    return SpatialAugment(**always).draw(generator_at(0, position), spacing_mm)  # type: ignore[arg-type]


def centers(size) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in size], indexing="ij"))


def hull(mask) -> np.ndarray:
    index = np.argwhere(np.asarray(mask) > 0)
    return np.concatenate([index.min(0), index.max(0) + 1]).astype(float)


def test_a_plain_placement_reads_no_margin_and_changes_nothing():
    crop = torch.rand(2, *PATCH)
    assert IDENTITY.source_size(PATCH) == PATCH
    assert apply_transform(crop, IDENTITY, PATCH) is crop


@pytest.mark.parametrize("axes", FLIPS, ids=str)
def test_flips_move_voxels_and_boxes_alike_exactly_and_twice_back(axes):
    spatial_transform = SpatialTransform(np.eye(3), tuple(axis for axis in range(3) if axes[axis]))
    crop = torch.zeros(1, *PATCH)
    crop[0, 2:5, 7:9, 20:28] = 1
    box = np.array([[2.0, 7, 20, 5, 9, 28]])
    moved = place_boxes(box, spatial_transform, PATCH, PATCH)
    assert np.array_equal(moved[0], hull(apply_transform(crop, spatial_transform, PATCH)[0]))
    assert np.array_equal(place_boxes(moved, spatial_transform, PATCH, PATCH), box)
    assert torch.equal(apply_transform(apply_transform(crop, spatial_transform, PATCH), spatial_transform, PATCH), crop)


@settings(max_examples=40)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 1.0]), st.sampled_from([(1, 1, 1), (2.5, 0.8, 0.8), (5, 0.7, 0.9)])
)
def test_boxes_are_the_hull_of_the_moved_object_up_to_a_voxel(position, elastic_p, spacing_mm):
    spatial_transform = placement_at(position, spacing_mm, elastic_p=elastic_p)
    size = spatial_transform.source_size(PATCH)
    center, radius = np.array(size) / 2 + 0.7, np.array([4.0, 5, 6])
    box = np.concatenate([center - radius, center + radius])[None]
    moved = place_boxes(box, spatial_transform, PATCH, size)[0]
    where = apply_transform(
        torch.from_numpy(centers(size)), spatial_transform, PATCH
    ).numpy()  # each voxel's place in the source
    seen = hull(np.square((where - center[:, None, None, None]) / radius[:, None, None, None]).sum(0) <= 1)
    inside = np.concatenate([np.maximum(moved[:3], 0), np.minimum(moved[3:], PATCH)])
    assert np.abs(inside - seen).max() <= 1


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(2, 8)] * 3), st.tuples(*[st.integers(3, 9)] * 3))
def test_zoomed_and_flipped_boxes_are_the_hull_of_their_mask_to_a_voxel(position, low, extent):
    spatial_transform = placement_at(position, rotation_p=0)
    size = spatial_transform.source_size(PATCH)
    high = np.minimum(np.array(low) + extent, size)
    low = np.minimum(low, high - 1)
    mask = torch.zeros(1, *size, dtype=torch.uint16)
    mask[0, low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
    moved = place_boxes(np.concatenate([low, high])[None].astype(float), spatial_transform, PATCH, size)[0]
    inside = np.concatenate([np.maximum(moved[:3], 0), np.minimum(moved[3:], PATCH)])
    placed = apply_transform(mask, spatial_transform, PATCH, nearest=True)[0]
    if placed.any():
        # A voxel belongs to the mask when its centre does, so each face is at most half a voxel away.
        assert np.abs(inside - hull(placed)).max() <= 0.5 + 1e-6


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_the_compiled_loop_and_grid_sample_agree(position, elastic_p):
    spatial_transform = placement_at(position, elastic_p=elastic_p)
    source = torch.from_numpy(
        generator_at(1, position).integers(-1000, 1000, (2, *spatial_transform.source_size(PATCH))).astype(np.int16)
    )
    torch.testing.assert_close(
        apply_transform(source, spatial_transform, PATCH),
        place_on_device(source, spatial_transform, PATCH),
        atol=0.05,
        rtol=0,
    )
    labels = apply_transform(source, spatial_transform, PATCH, nearest=True) != place_on_device(
        source, spatial_transform, PATCH, nearest=True
    )
    assert labels.float().mean() < 1e-3  # a place that lies on the border of two voxels may go to either


def test_zoom_scales_about_the_centre():
    spatial_transform = SpatialTransform(np.eye(3) / 2)  # everything twice as large
    size = spatial_transform.source_size(PATCH)
    center = np.array(size) / 2
    box = np.array([[*(center - 2), *(center + 2)]])
    expected = np.concatenate([np.array(PATCH) / 2 - 4, np.array(PATCH) / 2 + 4])
    np.testing.assert_allclose(place_boxes(box, spatial_transform, PATCH, size)[0], expected)


@pytest.mark.parametrize("flips", [(), (1,), (0, 2)])
def test_a_constant_stays_constant_and_a_ramp_is_read_where_the_affine_says(flips):
    spatial_transform = SpatialTransform(placement_at(3).matrix, flips)
    start, size = spatial_transform.source((5, 6, 7), PATCH)
    assert torch.allclose(apply_transform(torch.full((1, *size), 7.0), spatial_transform, PATCH), torch.tensor(7.0))
    ramps = torch.from_numpy(centers(size) + np.array(start)[:, None, None, None]).float()  # each voxel's own place
    affine = spatial_transform.affine((5, 6, 7), PATCH)
    expected = np.tensordot(affine[:, :3], centers(PATCH), axes=1) + affine[:, 3][:, None, None, None]
    np.testing.assert_allclose(apply_transform(ramps, spatial_transform, PATCH), expected, atol=1e-4)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_the_source_crop_holds_every_voxel_that_is_looked_up(position, elastic_p):
    spatial_transform = placement_at(position, elastic_p=elastic_p)
    size = spatial_transform.source_size(PATCH)
    voxels = torch.ones(1, *size)
    # With a rim of zeros around it, nothing outside of the source may leak into the patch.
    rim = torch.nn.functional.pad(voxels, (1,) * 6)
    assert torch.allclose(apply_transform(rim, spatial_transform, PATCH), torch.ones(()))


def test_rotations_are_rigid_in_millimetres():
    spacing_mm = np.array([2.0, 1.0, 0.5])
    matrix = placement_at(0, tuple(spacing_mm), zoom_p=0.0, in_plane_beyond=10).matrix
    in_mm = spacing_mm[:, None] * matrix / spacing_mm
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.abs(matrix - np.diag(np.diag(matrix))).max() > 0.01


@given(st.integers(0, 1000))
def test_strongly_anisotropic_voxels_are_turned_and_zoomed_in_their_plane(position):
    matrix = placement_at(position, (5.0, 0.7, 0.7), elastic_p=1.0).matrix
    np.testing.assert_array_equal(matrix[0], [1, 0, 0])
    np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
    assert placement_at(position, (5.0, 0.7, 0.7), elastic_p=1.0).source_size(PATCH)[0] == PATCH[0]


def test_an_elastic_share_that_could_fold_is_refused():
    with pytest.raises(UserError, match=r"elastic 0\.2: wanted a share from 0 to below 1/6"):
        SpatialAugment(elastic=0.2)
