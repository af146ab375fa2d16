from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from medpretrain3d.ingest.polygons import ON_LINE_VOX, fill_polygons


def square(low: float, high: float) -> np.ndarray:
    return np.array([[low, low], [low, high], [high, high], [high, low]])


@pytest.mark.parametrize(
    ("low", "high", "edge"),
    [
        (1.5, 4.5, 3),  # along the edges of pixels 2 to 4
        (2.0, 4.0, 3),  # through the centers of the outermost pixels, as tracing programs write it
        (2.004, 3.996, 3),  # the same after rounding
        (2.1, 3.9, 1),  # only the center of pixel 3 is inside
    ],
)
def test_a_square_holds_the_pixels_whose_centers_it_holds(low, high, edge):
    expected = np.zeros((7, 7), dtype=bool)
    expected[3 - edge // 2 : 4 + edge // 2, 3 - edge // 2 : 4 + edge // 2] = True
    for corners in (square(low, high), square(low, high)[::-1], np.roll(square(low, high), 1, axis=0)):
        np.testing.assert_array_equal(fill_polygons([corners], (7, 7)), expected)


def test_polygons_of_one_plane_exclude_each_other():
    """A hole of 5 x 5 in 9 x 9 pixels, and an island of 1 in it."""
    filled = fill_polygons([square(0.5, 9.5), square(2.5, 7.5), square(4.5, 5.5)], (11, 11))
    assert filled.sum() == 81 - 25 + 1
    assert filled[5, 5]
    assert not filled[5, 4]


def test_a_keyhole_is_a_hole():
    """One line around the outside, along a channel to the hole, around it and back through the channel."""
    outer, hole = square(0.5, 9.5), square(3.5, 6.5)
    keyhole = np.concatenate([outer, outer[:1], hole[::-1], hole[-1:]])
    np.testing.assert_array_equal(fill_polygons([keyhole], (11, 11)), fill_polygons([outer, hole], (11, 11)))


def test_two_objects_in_one_plane_and_what_lies_outside():
    filled = fill_polygons([square(-3.5, 1.5), square(5.5, 20.5)], (8, 8))
    assert filled.sum() == 2 * 2 + 2 * 2
    assert not fill_polygons([square(20, 30)], (8, 8)).any()
    assert not fill_polygons([], (8, 8)).any()


def test_lines_and_points_are_the_pixels_on_them():
    """What tracing leaves of a tail of one pixel's width: there and back."""
    assert np.argwhere(fill_polygons([np.array([[2.0, 1.0], [2.0, 4.0]])], (6, 6))).tolist() == [
        [2, 1],
        [2, 2],
        [2, 3],
        [2, 4],
    ]
    assert np.argwhere(fill_polygons([np.array([[3.0, 2.0]])], (6, 6))).tolist() == [[3, 2]]
    assert np.argwhere(fill_polygons([np.array([[1.0, 1.0], [4.0, 4.0]])], (6, 6))).tolist() == [
        [1, 1],
        [2, 2],
        [3, 3],
        [4, 4],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_any_polygon_is_filled_as_matplotlib_does(seed):
    """Stars of random radii, and an independent even-odd test of every center."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radii = rng.uniform(5, 25, 40)[:, None]
    star = 30 + radii * np.column_stack([np.cos(angles), np.sin(angles)])
    centers = np.argwhere(np.ones((60, 64)))
    expected = Outline(np.concatenate([star, star[:1]])).contains_points(centers).reshape(60, 64)
    assert expected.sum() > 300
    filled = fill_polygons([star], (60, 64))
    assert filled[expected].all()
    for center in np.argwhere(filled & ~expected):  # on the line, up to a hundredth of a pixel across it
        along = np.roll(star, -1, axis=0) - star
        share = (((center - star) * along).sum(axis=1) / (along**2).sum(axis=1)).clip(0, 1)
        assert np.linalg.norm(star + share[:, None] * along - center, axis=1).min() <= ON_LINE_VOX
