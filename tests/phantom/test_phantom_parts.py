"""The parts that synthetic chest CTs are made of."""

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.phantom.nodules import NoduleShape
from medpretrain3d.phantom.noise import reconstruction_noise, smooth_field
from medpretrain3d.phantom.space import Space
from medpretrain3d.phantom.tubes import along, coverage, tube_depth
from medpretrain3d.phantom.vessels import grow_tree

CUBE = Space((21, 21, 21), (1.0, 1.0, 1.0), (-10.0, -10.0, -10.0))


def test_nodule_shape_has_its_diameter_in_the_axial_plane():
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    axial = np.stack([0 * angle, np.sin(angle), np.cos(angle)], axis=1)
    for seed in range(20):
        radius = NoduleShape.draw(np.random.default_rng(seed)).radius(axial)
        assert (radius + np.roll(radius, 32)).max() == pytest.approx(1.0)


def test_tube_of_radius_three_has_the_area_of_its_circle():
    points, radii = along(np.array([[-9.0, 0, 0], [9.0, 0, 0]]), 3.0, step_mm=0.5)
    share = coverage(CUBE, tube_depth(CUBE, points, radii))
    assert share[10].sum() == pytest.approx(np.pi * 9, rel=0.03)
    assert share[10, 10, 10] == 1
    assert share[10, 10, 14] == 0


def test_balls_outside_the_volume_are_cut_off():
    depth = tube_depth(CUBE, np.array([[-10.0, -10, -10], [50.0, 0, 0]]), np.array([2.0, 2.0]))
    assert depth[0, 0, 0] == pytest.approx(2.0)
    assert (depth > 0).sum() == 8  # one step along any axes is at most 1.73 mm, two steps are 2 mm


def test_tree_obeys_murrays_law_and_reaches_every_target():
    targets = np.random.default_rng(0).uniform(-50, 50, (40, 3))
    tree = grow_tree(np.zeros(3), targets, tip_radius_mm=1.0)
    assert np.array_equal(tree.points_mm[1:], targets)
    for node in range(len(tree.points_mm)):
        children = np.flatnonzero(tree.parents == node)
        children = children[children != 0]
        if len(children):
            assert tree.radii_mm[node] ** 3 == pytest.approx((tree.radii_mm[children] ** 3).sum())
        else:
            assert tree.radii_mm[node] == pytest.approx(1.0)


def test_noise_has_its_standard_deviation_and_neighbours_agree():
    noise = reconstruction_noise(CUBE, np.random.default_rng(0), std_hu=20.0, kernel_mm=0.8, sharpness=0.5)
    assert noise.std() == pytest.approx(20.0, rel=1e-4)
    assert np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1] > 0.3
    assert abs(np.corrcoef(noise[..., 6:].ravel(), noise[..., :-6].ravel())[0, 1]) < 0.1


def test_smooth_field_stays_in_range_and_changes_slowly():
    field = smooth_field(CUBE, np.random.default_rng(0), length_mm=10.0)
    assert np.abs(field).max() <= 1
    assert np.abs(np.diff(field, axis=2)).max() < 2 * np.pi / 20 + 1e-6  # steepest slope of the raised cosine
