from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.resample import resample_linear, resample_nearest
from medpretrain3d.store.volume import Volume, resample, resample_labels

SPACINGS = st.tuples(*[st.floats(0.4, 3.5)] * 3)


def volume_of(array):
    grid = Grid(array.shape[1:], np.eye(4)[[2, 1, 0, 3]])
    return Volume(array, grid, grid)


@settings(max_examples=30, deadline=None)
@given(SPACINGS, st.integers(-1024, 3000))
def test_a_constant_stays_constant(spacing_mm, value):
    result = resample(volume_of(np.full((1, 7, 8, 9), value, np.int16)), spacing_mm)
    assert result.array.dtype == np.int16
    assert result.array.shape[1:] == result.grid.shape
    assert (result.array == value).all()


@settings(max_examples=30, deadline=None)
@given(SPACINGS)
def test_a_ramp_keeps_its_value_at_every_place_inside(spacing_mm):
    d, h, w = np.indices((24, 25, 26), dtype=np.float32)
    result = resample(volume_of((2 * d - 3 * h + 5 * w)[None]), spacing_mm)
    index = np.stack(np.indices(result.grid.shape), axis=-1).reshape(-1, 3)
    x, y, z = (index @ result.grid.affine_lps[:3, :3].T + result.grid.affine_lps[:3, 3]).T
    reach = np.array(spacing_mm).max() + 1
    inside = np.logical_and.reduce([(c > reach) & (c < 23 - reach) for c in (x, y, z)])
    assert inside.any()
    np.testing.assert_allclose(result.array.reshape(-1)[inside], (2 * z - 3 * y + 5 * x)[inside], atol=1e-3)


def test_doubling_and_halving_by_hand():
    row = np.array([0.0, 8.0, 0.0, 0.0], np.float32).reshape(1, 1, 1, 4)
    # Half the spacing: centres at -0.25, 0.25, 0.75, ... of the old index, linear between them, ends repeated.
    fine = resample_linear(row, (1, 1, 0.5), (1, 1, 8))
    np.testing.assert_allclose(fine.ravel(), [0, 2, 6, 6, 2, 0, 0, 0])
    # Twice the spacing: the hat averaged over sqrt(3). Old voxels at distance 0.5 weigh (1 - 0.634^2 / 2) / 1.732 =
    # 0.4613, at 1.5 (0.366^2 / 2) / 1.732 = 0.0387; the fourth lies outside, so all are divided by 0.9613.
    coarse = resample_linear(row, (1, 1, 2), (1, 1, 2))
    np.testing.assert_allclose(coarse.ravel(), [8 * 0.46132 / 0.96132, 8 * 0.03868 / 0.96132], rtol=1e-3)


def test_shrinking_averages_noise():
    noise = np.random.default_rng(0).normal(size=(1, 40, 40, 40)).astype(np.float32)
    assert resample(volume_of(noise), (4, 4, 4)).array.std() < 0.15  # plain linear interpolation leaves more than 0.3


@pytest.mark.parametrize("spacing_mm", [(0.5, 0.7, 1.3), (2.0, 1.7, 1.0), (3.0, 3.0, 3.0)])
def test_a_blob_stays_where_it_is_in_the_patient(spacing_mm):
    d, h, w = np.indices((40, 44, 48), dtype=np.float32)
    blob = np.exp(-((d - 18.3) ** 2 + (h - 21.6) ** 2 + (w - 25.1) ** 2) / (2 * 4.0**2))
    result = resample(volume_of(blob[None]), spacing_mm)
    weight = result.array[0] / result.array.sum()
    centroid = [(weight * axis).sum() for axis in np.indices(result.grid.shape)]
    xyz = result.grid.affine_lps @ [*centroid, 1]
    np.testing.assert_allclose(xyz[:3], [25.1, 21.6, 18.3], atol=0.02)


def test_labels_are_never_mixed_and_boxes_of_whole_ratios_are_exact():
    labels = np.zeros((1, 8, 8, 8), np.uint16)
    labels[0, 2:6, 4:8, 0:4] = 7
    fine = resample_labels(volume_of(labels), (0.5, 0.5, 0.5))
    assert set(np.unique(fine.array)) == {0, 7}
    d, h, w = np.nonzero(fine.array[0])
    assert (d.min(), d.max(), h.min(), h.max(), w.min(), w.max()) == (4, 11, 8, 15, 0, 7)
    coarse = resample_nearest(labels, (2, 2, 2), (4, 4, 4))
    assert np.argwhere(coarse[0]).min(axis=0).tolist() == [1, 2, 0]
    assert (coarse == 7).sum() == 8


def test_the_same_spacing_changes_nothing():
    array = np.random.default_rng(0).integers(-1024, 3000, (2, 5, 6, 7)).astype(np.int16)
    result = resample(volume_of(array), (1, 1, 1))
    np.testing.assert_array_equal(result.array, array)
    assert not np.shares_memory(result.array, array)
