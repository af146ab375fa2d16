from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.errors import UserError
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import ForegroundZScore, NamedWindow, PerChannel, PerUnit, Window, ZScore
from medpretrain3d.store.statistics import ChannelStatistics, channel_statistics
from medpretrain3d.store.volume import Volume

EVERY_NORMALISATION = [
    Window(-150, 250),
    NamedWindow("bone"),
    ForegroundZScore(-900, 400, -300, 200),
    ForegroundZScore([-900, -100], [400, 300], [-300, 0], [200, 50]),
    ZScore(),
    ZScore("all"),
    PerChannel([NamedWindow("lung"), ZScore()]),
]


def test_a_window_maps_its_ends_to_minus_one_and_one_and_cuts_the_rest():
    image = np.array([-2000, -1000, -300, 50, 400, 3000], dtype=np.int16)
    scaled = Window(-1000, 400)(image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [-1, -1, 0, 0.5, 1, 1])
    assert image[0] == -2000  # the input is left alone


def test_the_widest_values_of_int16_do_not_wrap_around():
    np.testing.assert_array_equal(Window()(np.array([-32768, 32767], np.int16)), [-1, 1])


def test_arrays_and_tensors_agree():
    hu = np.arange(-1500, 1500, 7, dtype=np.int16)
    np.testing.assert_allclose(Window(-150, 250)(torch.from_numpy(hu)).numpy(), Window(-150, 250)(hu), atol=1e-7)


def test_a_window_is_rebuilt_from_its_description():
    assert from_config(to_config(Window(-150, 250))) == Window(-150, 250)


@pytest.mark.parametrize("ends", [(1, 1), (5, -5), (float("nan"), 1), (0, float("inf"))])
def test_a_window_without_width_is_refused(ends):
    with pytest.raises(UserError, match="first must be below the second"):
        Window(*ends)


def test_windows_by_name():
    assert NamedWindow("lung")(np.array([-1350, -600, 150], np.int16)).tolist() == [-1, 0, 1]
    assert NamedWindow("soft_tissue")(np.array([-160, 40, 240], np.int16)).tolist() == [-1, 0, 1]
    assert NamedWindow("bone")(np.array([-450, 300, 1050], np.int16)).tolist() == [-1, 0, 1]
    assert NamedWindow("full")(np.array([-1024, 3071], np.int16)).tolist() == [-1, 1]
    with pytest.raises(UserError, match="window 'brain': wanted one of lung, soft_tissue, bone, full"):
        NamedWindow("brain")


def test_statistics_are_those_of_the_voxels_above_the_padding():
    image = np.full((2, 4, 5, 6), -1024, np.int16)
    image[0, 0, 0, :4] = [10, 20, 30, 40]
    body, air = channel_statistics(image, [-1024, -1024])
    assert (body.mean, body.low, body.high) == (25, 10, 40)
    assert body.std == pytest.approx(np.std([10, 20, 30, 40]))
    assert (air.mean, air.std, air.low, air.high) == (-1024, 0, -1024, -1024)
    assert ChannelStatistics.from_json(body.to_json()) == body


def test_a_z_score_is_that_of_the_volume_also_on_a_crop():
    volume = np.random.default_rng(0).integers(1, 3000, (2, 8, 8, 8)).astype(np.int16)
    volume[1] //= 7
    fitted = ZScore().fitted(channel_statistics(volume, [0, 0]))
    whole = fitted(volume)
    np.testing.assert_allclose([whole[0].mean(), whole[0].std()], [0, 1], atol=1e-5)
    np.testing.assert_array_equal(fitted(volume[:, 2:5]), whole[:, 2:5])
    with pytest.raises(UserError, match="needs the volume's statistics"):
        ZScore()(volume)


def test_a_z_score_over_all_voxels_counts_air_and_asks_for_what_older_stores_lack():
    volume = np.random.default_rng(0).integers(0, 900, (1, 8, 8, 8)).astype(np.int16)
    volume[:, :4] = -1024
    statistics = channel_statistics(volume, [-1024])
    over_all = ZScore("all").fitted(statistics)(volume)
    np.testing.assert_allclose([over_all.mean(), over_all.std()], [0, 1], atol=1e-5)
    assert ZScore().fitted(statistics)(volume)[:, 4:].mean() == pytest.approx(0, abs=1e-5)
    older = [ChannelStatistics.from_json({"mean": 1.0, "std": 2.0, "low": 0.0, "high": 3.0})]
    assert ZScore().fitted(older)(np.ones((1, 2, 2, 2), np.int16)).max() == 0
    with pytest.raises(UserError, match=r"over all voxels: .*prepare` on it again"):
        ZScore("all").fitted(older)
    with pytest.raises(UserError, match="wanted above_lowest or all"):
        ZScore("tissue")


def test_volumes_in_hu_and_others_have_a_normalisation_each():
    rng = np.random.default_rng(0)
    grid = Grid((4, 4, 4), np.eye(4))
    ct = Volume(rng.integers(-1024, 3000, (1, 4, 4, 4)).astype(np.int16), grid, grid)
    mr = replace(ct, array=rng.integers(0, 900, (1, 4, 4, 4)).astype(np.int16), rescale=((1.0, 0.0),))
    both = PerUnit(hu=NamedWindow("lung"))
    np.testing.assert_array_equal(both.fitted_to(ct)(ct.array), NamedWindow("lung")(ct.array))
    np.testing.assert_array_equal(both.fitted_to(mr)(mr.array), ZScore().fitted(mr.statistics)(mr.array))
    rebuilt = from_config(json.loads(json.dumps(to_config(both))))
    np.testing.assert_array_equal(rebuilt.fitted_to(mr)(mr.array), both.fitted_to(mr)(mr.array))
    assert [Window().suits("any"), ZScore().suits("any"), both.suits("any"), PerUnit(other=Window()).suits("any")] == [
        *(False, True, True, False)
    ]
    for wrong in (lambda: both(mr.array), lambda: both.fitted(mr.statistics)):
        with pytest.raises(UserError, match="needs to know the volume's unit"):
            wrong()


def test_a_z_score_does_not_see_how_a_volume_is_stored():
    values = np.random.default_rng(0).integers(0, 900, (1, 9, 9, 9)).astype(np.int16)
    stretched = (values * 30 - 5).astype(np.int16)
    first, second = (
        ZScore().fitted(channel_statistics(image, [int(image.min())]))(image) for image in (values, stretched)
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_foreground_z_score_cuts_and_scales_each_channel():
    one = ForegroundZScore(low=-100, high=300, mean=50, std=25)
    np.testing.assert_allclose(one(np.array([-900, -100, 50, 75, 3000], np.int16)), [-6, -6, 0, 1, 10])
    two = ForegroundZScore(low=[0, 0], high=[10, 100], mean=[5, 50], std=[5, 25])
    image = np.stack([np.full((2, 2, 2), 20), np.full((2, 2, 2), 75)]).astype(np.int16)
    assert two(image)[:, 0, 0, 0].tolist() == [1, 1]
    for bad in ({"low": 5, "high": 5}, {"std": 0}, {"std": float("nan")}, {"mean": [1, 2]}):
        with pytest.raises(UserError, match="foreground statistics"):
            ForegroundZScore(**{"low": 0, "high": 1, "mean": 0, "std": 1, **bad})


def test_each_channel_by_its_own():
    image = np.stack([np.full((2, 2, 2), 150), np.full((2, 2, 2), 9)]).astype(np.int16)
    both = PerChannel([NamedWindow("lung"), ZScore()])
    fitted = both.fitted([ChannelStatistics(0, 1, 0, 0), ChannelStatistics(5, 2, 0, 0)])
    assert fitted(image)[:, 0, 0, 0].tolist() == [1, 2]
    with pytest.raises(UserError, match="image of 1 channels for 2"):
        fitted(image[:1])
    with pytest.raises(UserError, match="image of 1 channels for 2"):
        both.fitted([ChannelStatistics(0, 1, 0, 0)])


@pytest.mark.parametrize("normalization", EVERY_NORMALISATION, ids=lambda one: type(one).__name__)
def test_every_normalisation_is_rebuilt_from_plain_data_and_agrees_on_arrays_and_tensors(normalization):
    image = np.random.default_rng(0).integers(-1024, 2000, (2, 3, 4, 5)).astype(np.int16)
    before = image.copy()
    rebuilt = from_config(json.loads(json.dumps(to_config(normalization)))).fitted(
        channel_statistics(image, [-1024] * 2)
    )
    result = rebuilt(image)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(result, normalization.fitted(channel_statistics(image, [-1024] * 2))(image))
    np.testing.assert_allclose(rebuilt(torch.from_numpy(image)).numpy(), result, atol=1e-6)


def test_a_store_opens_without_torch():
    code = "import sys, medpretrain3d.store.store, medpretrain3d.store.intensity; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
