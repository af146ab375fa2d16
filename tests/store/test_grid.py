from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import io_orientation

from medpretrain3d.store.grid import Grid

# Canonical axes: D along z, H along y, W along x.
DHW_TO_XYZ = np.eye(4)[[2, 1, 0, 3]]


def canonical_grid(shape=(4, 5, 6), spacing_mm=(3.0, 2.0, 1.0), origin=(0.0, 0.0, 0.0)):
    affine = DHW_TO_XYZ @ np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


def rotation(degrees, about=(1.0, 2.0, 3.0)):
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(about) / np.linalg.norm(about)).as_matrix()
    return matrix


def test_a_box_of_one_voxel_is_its_cell_in_millimetres():
    grid = canonical_grid(origin=(100, 200, 300))
    # Voxel (1, 0, 2) has its centre at x = 100 + 2, y = 200, z = 300 + 3; the cell reaches half a spacing around it.
    box = grid.boxes_to_lps_mm(np.array([[1, 0, 2, 2, 1, 3]]))
    np.testing.assert_allclose(box, [[101.5, 199, 301.5, 102.5, 201, 304.5]])
    np.testing.assert_allclose(grid.boxes_from_lps_mm(box), [[1, 0, 2, 2, 1, 3]])


def test_spacing_is_given_along_the_array_axes():
    assert canonical_grid(spacing_mm=(3.0, 2.0, 1.0)).spacing_mm == (3.0, 2.0, 1.0)


def test_resampling_scales_boxes_and_keeps_the_low_corner():
    grid = canonical_grid(shape=(4, 5, 6), spacing_mm=(3.0, 2.0, 1.0))
    coarse = grid.resampled((6.0, 1.0, 2.5))
    assert coarse.shape == (2, 10, 3)  # 12 mm / 6, 10 mm / 1, 6 mm / 2.5 = 2.4 and so 3
    np.testing.assert_allclose(coarse.spacing_mm, (6.0, 1.0, 2.5))
    np.testing.assert_allclose(grid.map_boxes([[1, 2, 3, 3, 4, 5]], coarse), [[0.5, 4, 1.2, 1.5, 8, 2.0]])
    np.testing.assert_allclose(grid.boxes_to_lps_mm([[0] * 6]), coarse.boxes_to_lps_mm([[0] * 6]))


def test_a_resampled_grid_has_at_least_a_voxel_and_no_sliver_from_rounding():
    assert canonical_grid(shape=(1, 5, 6)).resampled((50.0, 2.0, 1.0)).shape == (1, 5, 6)
    assert canonical_grid(shape=(100, 5, 6), spacing_mm=(float(np.float32(0.7)), 2.0, 1.0)).resampled(
        (0.7, 2.0, 1.0)
    ).shape == (100, 5, 6)


def test_a_crop_lies_where_its_voxels_were():
    grid = canonical_grid(origin=(7, 8, 9))
    crop = grid.crop((1, -2, 3), (2, 2, 2))
    assert crop.shape == (2, 2, 2)
    np.testing.assert_allclose(crop.map_boxes([[0, 0, 0, 1, 1, 1]], grid), [[1, -2, 3, 2, -1, 4]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("degrees", [0, 20])
def test_every_orientation_comes_to_superior_posterior_left(order, flips, degrees):
    shape = (4, 5, 6)
    affine = rotation(degrees) @ np.eye(4)[[*order, 3]] @ np.diag([*(np.array(flips) * (1.0, 1.5, 2.0)), 1.0])
    source = Grid(shape, affine)
    grid, axes, mirrored = source.canonical()
    directions = grid.affine_lps[:3, :3] / grid.spacing_mm
    for axis, world in enumerate((2, 1, 0)):
        assert directions[world, axis] > 0.7  # within 45 degrees of +z, +y, +x
    # The voxel that the array's reordering brings to index (d, h, w) lies where the new affine says.
    index = np.stack(np.indices(shape), axis=-1)
    moved = np.flip(index.transpose(*axes, 3), mirrored)
    for d, h, w in [(0, 0, 0), (grid.shape[0] - 1, 1, 2)]:
        np.testing.assert_allclose(affine @ [*moved[d, h, w], 1], grid.affine_lps @ [d, h, w, 1], atol=1e-9)


@given(
    st.integers(0, 47),
    st.lists(st.floats(0.3, 5.0), min_size=6, max_size=6),
    st.lists(st.integers(0, 20), min_size=3, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.floats(0, 40),
)
def test_boxes_survive_reorienting_and_resampling(orientation, spacings, corner, extent, degrees):
    order = list(itertools.permutations(range(3)))[orientation % 6]
    flips = np.array(list(itertools.product((1, -1), repeat=3))[orientation // 6])
    affine = rotation(degrees) @ np.eye(4)[[*order, 3]] @ np.diag([*(flips * spacings[:3]), 1.0])
    affine[:3, 3] = (-250.0, 100.0, -900.0)
    source = Grid((30, 31, 32), affine)
    box = np.array([[*corner, *np.add(corner, extent)]], dtype=float)
    stored_grid = source.canonical()[0].resampled(spacings[3:])
    stored = source.map_boxes(box, stored_grid).astype(np.float32)
    np.testing.assert_allclose(stored_grid.map_boxes(stored, source), box, atol=1e-3)


def test_json_round_trip_is_exact():
    grid = Grid((3, 4, 5), rotation(17) @ np.diag([0.1, 0.7, 1 / 3, 1]))
    assert Grid.from_json(grid.to_json()) == grid
    assert hash(Grid.from_json(grid.to_json())) == hash(grid)
    assert grid != grid.resampled((1, 1, 1))


def test_close_grids_have_corners_within_a_tenth_of_a_voxel():
    grid = Grid((100, 512, 512), np.diag([2.5, 0.7, 0.7, 1.0]))

    def changed(row, column, by):
        affine = grid.affine_lps.copy()
        affine[row, column] += by
        return Grid(grid.shape, affine)

    assert grid.corner_distance_vox(changed(1, 3, 0.002)) == pytest.approx(0.002 / 0.7)
    assert grid.is_close(changed(1, 3, 0.002))  # an origin rounded to hundredths
    assert grid.is_close(changed(1, 3, 0.069))
    assert not grid.is_close(changed(1, 3, 0.071))
    assert grid.is_close(changed(0, 3, 0.24))  # along D a voxel is longer
    # 0.0009 mm more per voxel: 0.46 mm behind the last of 512 voxels, which is 0.66 of a voxel.
    assert grid.corner_distance_vox(changed(2, 2, 0.0009)) == pytest.approx(511.5 * 0.0009 / 0.7)
    assert not grid.is_close(changed(2, 2, 0.0009))
    assert not grid.is_close(changed(1, 2, 0.0009))  # sheared
    assert not grid.is_close(Grid((100, 512, 511), grid.affine_lps))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_that_cannot_be_inverted_is_refused(affine):
    with pytest.raises(ValueError, match="invertible"):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("degrees", [0, 10, 30, 38, 52, 70])
def test_boxes_come_back_from_their_hulls_in_lps(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    grid = Grid((9, 9, 9), np.array([[c, -2 * s, 0, 5], [s, 2 * c, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]))
    boxes = np.array([[1.0, 2, 3, 6, 3, 4], [0, 0, 0, 1, 1, 9]])
    again, is_hull = grid.boxes_from_lps_hulls(grid.boxes_to_lps_mm(boxes))
    assert is_hull.all()
    np.testing.assert_allclose(again, boxes, atol=1e-9)
    assert grid.is_axis_aligned == (degrees == 0)


def test_a_square_hull_at_45_degrees_leaves_the_box_open():
    c = np.sqrt(0.5)
    grid = Grid((9, 9, 9), np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    hulls = grid.boxes_to_lps_mm(np.array([[0.0, 3, 0, 8, 5, 1], [3, 0, 0, 5, 8, 1]]))
    np.testing.assert_allclose(hulls[0], hulls[1])
    boxes, is_hull = grid.boxes_from_lps_hulls(hulls)
    assert not is_hull.any()
    np.testing.assert_allclose(boxes[0], [-1, -1, 0, 9, 9, 1])  # 8 and 2 along the edges: 10 by 10 around it


def test_axes_in_another_order_and_direction_are_parallel():
    c, s = np.cos(0.3), np.sin(0.3)
    grid = Grid((2, 3, 4), np.array([[c, -s, 0, 5], [s, c, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]))
    assert grid.is_parallel(grid.canonical()[0])
    assert grid.is_parallel(grid.crop((1, 1, 1), (1, 2, 2)).resampled((2, 2, 2)))
    assert not grid.is_parallel(Grid((2, 3, 4), np.eye(4)))


@pytest.mark.parametrize(
    "turn",
    [
        *(rotation(degrees, about)[:3, :3] for about in np.eye(3) for degrees in (45, -45)),
        (rotation(45, (1, 0, 0)) @ rotation(45, (0, 1, 0)))[:3, :3],
        np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3,
    ],
)
def test_a_scan_at_45_degrees_has_one_frame_whatever_header_and_order_of_axes_it_is_stored_with(turn):
    spacing_mm, shape = np.array([0.8, 0.7031, 1.5]), (6, 7, 8)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing_mm, (-40, 12, 300)
    expected = Grid(shape, affine).canonical()[0]
    random = np.random.default_rng(0)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            stored = np.eye(4)
            moved = turn + random.uniform(-1e-6, 1e-6, (3, 3))  # what six digits leave
            start = [0 if sign > 0 else size - 1 for sign, size in zip(signs, shape, strict=True)]
            stored[:3, :3] = (moved * spacing_mm * signs)[:, order]
            stored[:3, 3] = affine[:3, 3] + affine[:3, :3] @ start
            found = Grid(np.array(shape)[list(order)].tolist(), stored).canonical()[0]
            assert found.shape == expected.shape
            np.testing.assert_allclose(found.affine_lps, expected.affine_lps, atol=1e-4)


def test_axes_are_those_of_nibabel_where_no_two_are_as_near():
    for seed in range(200):
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3] = turn * (0.8, 0.7, 2.5)
        orientation = io_orientation(affine)
        _, order, mirrored = Grid((4, 5, 6), affine).canonical()
        assert list(order) == np.argsort(-orientation[:, 0]).tolist()
        assert list(mirrored) == np.flatnonzero(orientation[list(order), 1] < 0).tolist()
